package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// nvChunk is how much of an NV index is read or written at a time, in bytes: TPMs of the PC Client profile take 1024.
const nvChunk = 1024

// ErrNoIndex says that the TPM has no such NV index.
var ErrNoIndex = errors.New("no such NV index")

// ReadNV reads the whole of an NV index that anybody may read. The error is [ErrNoIndex] when there is none.
func (t *TPM) ReadNV(ctx context.Context, index uint32) (content []byte, err error) {
	err = t.with(ctx, func(connection transport.TPM) error {
		named, size, err := nvIndex(connection, index)
		if err != nil {
			return err
		}
		for offset := 0; offset < size; offset += nvChunk {
			part, err := tpm2.NVRead{
				AuthHandle: tpm2.AuthHandle{Handle: named.Handle, Name: named.Name, Auth: tpm2.PasswordAuth(nil)},
				NVIndex:    named, Offset: uint16(offset), Size: uint16(min(nvChunk, size-offset)),
			}.Execute(connection)
			if err != nil {
				return fmt.Errorf("TPM2_NV_Read of %#x: %w", index, err)
			}
			content = append(content, part.Data.Buffer...)
		}
		return nil
	})
	return content, err
}

// WriteNV writes content to the beginning of an NV index that anybody may write.
func (t *TPM) WriteNV(ctx context.Context, index uint32, content []byte) error {
	return t.with(ctx, func(connection transport.TPM) error {
		named, _, err := nvIndex(connection, index)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: named.Handle, Name: named.Name, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    named, Data: tpm2.TPM2BMaxNVBuffer{Buffer: content},
		}.Execute(connection)
		if err != nil {
			return fmt.Errorf("TPM2_NV_Write of %#x: %w", index, err)
		}
		return nil
	})
}

func nvIndex(connection transport.TPM, index uint32) (named tpm2.NamedHandle, size int, err error) {
	response, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(connection)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return named, 0, fmt.Errorf("%w: %#x", ErrNoIndex, index)
	}
	if err != nil {
		return named, 0, fmt.Errorf("TPM2_NV_ReadPublic of %#x: %w", index, err)
	}
	public, err := response.NVPublic.Contents()
	if err != nil {
		return named, 0, fmt.Errorf("TPM2_NV_ReadPublic of %#x: %w", index, err)
	}
	return tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: response.NVName}, int(public.DataSize), nil
}
