package evidence

import "fmt"

// RegisterError says that the register that init-data is bound to is another than
// the expected digest makes it. It is an [ErrInitData].
type RegisterError struct {
	// Register is PCR 8, HOST_DATA or MRCONFIGID.
	Register         string
	Actual, Expected []byte
}

var _ error = (*RegisterError)(nil)

func (e *RegisterError) Error() string {
	return fmt.Sprintf("%v: %s is %x, expected %x", ErrInitData, e.Register, e.Actual, e.Expected)
}

// Unwrap gives [ErrInitData].
func (e *RegisterError) Unwrap() error { return ErrInitData }
