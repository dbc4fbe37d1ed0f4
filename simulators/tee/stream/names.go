package stream

import "fmt"

// commandNames holds the commands that guests of confidential pods send, for people who read logs (TPM 2.0 Library
// Specification, Part 2, TPM_CC).
var commandNames = map[uint32]string{
	0x120: "EvictControl",
	0x121: "HierarchyControl",
	0x126: "Clear",
	0x129: "HierarchyChangeAuth",
	0x12a: "NV_DefineSpace",
	0x131: "CreatePrimary",
	0x137: "NV_Write",
	0x13c: "PCR_Event",
	0x13d: "PCR_Reset",
	0x144: "Startup",
	0x145: "Shutdown",
	0x147: "ActivateCredential",
	0x14e: "NV_Read",
	0x153: "Create",
	0x157: "Load",
	0x158: "Quote",
	0x15d: "Sign",
	0x15e: "Unseal",
	0x165: "FlushContext",
	0x169: "NV_ReadPublic",
	0x173: "ReadPublic",
	0x176: "StartAuthSession",
	0x17a: "GetCapability",
	0x17b: "GetRandom",
	0x17e: "PCR_Read",
	0x182: "PCR_Extend",
}

func commandName(code uint32) string {
	if name, ok := commandNames[code]; ok {
		return name
	}
	return fmt.Sprintf("%#x", code)
}
