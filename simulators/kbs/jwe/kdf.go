package jwe

import (
	"crypto/sha256"
	"encoding/binary"
)

// concatKDF is the Concat KDF of NIST SP 800-56A with SHA-256, with the other info of RFC 7518 section 4.6.2. size is
// the derived key's length in bytes.
func concatKDF(shared []byte, algorithm string, apu, apv []byte, size int) []byte {
	var info []byte
	for _, part := range [][]byte{[]byte(algorithm), apu, apv} {
		info = binary.BigEndian.AppendUint32(info, uint32(len(part)))
		info = append(info, part...)
	}
	info = binary.BigEndian.AppendUint32(info, uint32(size*8))
	var derived []byte
	for round := uint32(1); len(derived) < size; round++ {
		hash := sha256.New()
		hash.Write(binary.BigEndian.AppendUint32(nil, round))
		hash.Write(shared)
		hash.Write(info)
		derived = hash.Sum(derived)
	}
	return derived[:size]
}
