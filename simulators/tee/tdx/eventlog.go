package tdx

import "encoding/binary"

// Event types of the TCG PC Client Platform Firmware Profile.
const (
	evNoAction       = 0x00000003
	evSeparator      = 0x00000004
	evEventTag       = 0x00000006
	evFirmwareBlob   = 0x80000008 // EV_EFI_PLATFORM_FIRMWARE_BLOB
	evBootServices   = 0x80000003 // EV_EFI_BOOT_SERVICES_APPLICATION
	evVariableConfig = 0x80000001 // EV_EFI_VARIABLE_DRIVER_CONFIG
	algSHA384        = 0x000c
)

// bootEvent is something that firmware and boot loader measured.
type bootEvent struct {
	rtmr int
	kind uint32
	data []byte
}

// boot is what a guest's boot measures, much shortened: firmware and its configuration into RTMR 0, the kernel into
// RTMR 1, its command line and initrd into RTMR 2. RTMR 3 is left to what runs later.
var boot = []bootEvent{
	{0, evFirmwareBlob, []byte("coco-e2e simulated TDVF configuration volume")},
	{0, evVariableConfig, []byte("SecureBoot=0")},
	{0, evSeparator, make([]byte, 4)},
	{1, evBootServices, []byte("coco-e2e simulated guest kernel")},
	{1, evSeparator, make([]byte, 4)},
	{2, evEventTag, []byte("LOADED_IMAGE::LoadOptions console=hvc0 agent.log=info")},
	{2, evEventTag, []byte("Linux initrd")},
}

// logHeader is the log's first event, which says which digests the others have (TCG_EfiSpecIDEvent).
func logHeader() []byte {
	little := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2) // class, version 2.0, errata 0, UINTN of 64 bits
	spec = little.AppendUint32(spec, 1)
	spec = little.AppendUint16(spec, algSHA384)
	spec = append(little.AppendUint16(spec, digestSize), 0)
	header := little.AppendUint32(nil, 0)
	header = little.AppendUint32(header, evNoAction)
	header = append(header, make([]byte, 20)...)
	return append(little.AppendUint32(header, uint32(len(spec))), spec...)
}

// record is the event as a CC event log has it (TCG_PCR_EVENT2; registers count from 1 for RTMR 0).
func (e bootEvent) record(digest []byte) []byte {
	little := binary.LittleEndian
	raw := little.AppendUint32(nil, uint32(e.rtmr+1))
	raw = little.AppendUint32(raw, e.kind)
	raw = little.AppendUint32(raw, 1)
	raw = append(little.AppendUint16(raw, algSHA384), digest...)
	return append(little.AppendUint32(raw, uint32(len(e.data))), e.data...)
}
