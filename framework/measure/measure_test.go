package measure

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// Digests of init-data documents: the one of the article "Policing a Sandbox", and two made with openssl dgst -sha384
// and -sha512.
const (
	articleDigest = "bdc9a7390bb371258fb7fb8be5a8de5ced6a07dd077d1ce04ec26e06eaf68f60"
	sha384Digest  = "b216b8377a906e024a932e6a2792e7b0e3b037f5822e46f0f30148a76cbbfa84d93ff270e2b33d5bee52ba47c8cf45d4"
	sha512Digest  = "314c75335909f12fc9481eba67903d38aa43069b97c98014eb7554663352578b" +
		"0cac21d42dbc47a2cc775228875cb114a99aba787a7aa24f1b2ecf2c620d9dfe"
	// articlePCR8 is the article's: openssl dgst -sha256 --binary <(cat zeroes init-data.digest) | xxd -p -c32
	articlePCR8 = "7aaf19294adabd752bf095e1f076baed85d4b088fa990cb575ad0f3e0569f292"
)

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	value, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Expectations: (head -c SIZE /dev/zero; printf DIGEST | xxd -r -p) | openssl dgst -shaN
func TestExtend(t *testing.T) {
	for name, c := range map[string]struct {
		bank                  crypto.Hash
		current, digest, want string
	}{
		"sha256": {crypto.SHA256, strings.Repeat("00", 32), articleDigest, articlePCR8},
		"again":  {crypto.SHA256, articlePCR8, articleDigest, "8d0897ee98bdf13ed84dcc62eeeb37c1c5624af585b2a1ecded77494def783d7"},
		"sha384": {crypto.SHA384, strings.Repeat("00", 48), sha384Digest, "6a6e208bb78e40a774d449fa54a90980aa42162d02bb0081248063f915b0fd7d1f08d80fe92924625a32982e499cf944"},
		"sha512": {
			crypto.SHA512, strings.Repeat("00", 64), sha512Digest,
			"3bf90afa2138b0415718fde57540edfbb14b051418ddf90ceb31dae6ba9a1d13" +
				"a39f1ffe580f731020b2172b0cb1b5ad2c5e6e6ad56a2037d7ada83faf7c1b8e",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Extend(c.bank, fromHex(t, c.current), fromHex(t, c.digest))
			if err != nil || hex.EncodeToString(got) != c.want {
				t.Errorf("Extend = %x, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestExtendRefuses(t *testing.T) {
	zeros := make([]byte, 64)
	for name, c := range map[string]struct {
		bank            crypto.Hash
		current, digest []byte
		want            string
	}{
		"short register": {crypto.SHA256, zeros[:31], zeros[:32], "register of the SHA-256 bank has 31 bytes, want 32"},
		"long digest":    {crypto.SHA256, zeros[:32], zeros[:48], "digest for the SHA-256 bank has 48 bytes, want 32"},
		"short digest":   {crypto.SHA384, zeros[:48], zeros[:32], "digest for the SHA-384 bank has 32 bytes, want 48"},
		"no digest":      {crypto.SHA512, zeros, nil, "digest for the SHA-512 bank has 0 bytes, want 64"},
		"no such bank":   {crypto.MD4, zeros, zeros, "no PCR bank for hash MD4"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Extend(c.bank, c.current, c.digest); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Extend: %v, want …%s…", err, c.want)
			}
		})
	}
}

func TestPCR8(t *testing.T) {
	if got, err := PCR8(fromHex(t, articleDigest)); err != nil || hex.EncodeToString(got) != articlePCR8 {
		t.Errorf("PCR8 = %x, %v; want %s", got, err, articlePCR8)
	}
	for _, digest := range []string{"", articleDigest[2:], articleDigest + "00", sha384Digest, sha512Digest} {
		var length *LengthError
		_, err := PCR8(fromHex(t, digest))
		if !errors.As(err, &length) || length.Want != 32 || length.Got != len(digest)/2 {
			t.Errorf("PCR8 of %d bytes: %v", len(digest)/2, err)
		}
	}
}

// Expectations: (head -c 32 /dev/zero; printf DIGEST | head -c 64 | xxd -r -p) | openssl dgst -sha256
func TestPCR8FromCAA(t *testing.T) {
	for digest, want := range map[string]string{
		articleDigest: articlePCR8,
		sha384Digest:  "37a8085ca8f718b2eee593ab771f8bfc80408f7fd8aec779aadbbd7d946c609a",
		sha512Digest:  "2b5e10ef5f7353c1bbbc0b5dafbf4b4e023525f67a4d77ac326e93ac3d2daff8",
	} {
		if got, err := PCR8FromCAA(fromHex(t, digest)); err != nil || hex.EncodeToString(got) != want {
			t.Errorf("PCR8FromCAA(%s) = %x, %v; want %s", digest, got, err, want)
		}
	}
	var length *LengthError
	if _, err := PCR8FromCAA(make([]byte, 31)); !errors.As(err, &length) {
		t.Errorf("PCR8FromCAA of 31 bytes: %v", err)
	}
}

func TestHostRegisters(t *testing.T) {
	for name, c := range map[string]struct {
		register     func([]byte) []byte
		digest, want string
	}{
		"HOST_DATA sha256":  {HostData, articleDigest, articleDigest},
		"HOST_DATA sha384":  {HostData, sha384Digest, "b216b8377a906e024a932e6a2792e7b0e3b037f5822e46f0f30148a76cbbfa84"},
		"HOST_DATA sha512":  {HostData, sha512Digest, "314c75335909f12fc9481eba67903d38aa43069b97c98014eb7554663352578b"},
		"HOST_DATA short":   {HostData, "ff", "ff" + strings.Repeat("00", 31)},
		"MRCONFIGID sha256": {MRConfigID, articleDigest, articleDigest + "00000000000000000000000000000000"},
		"MRCONFIGID sha384": {MRConfigID, sha384Digest, sha384Digest},
		"MRCONFIGID sha512": {MRConfigID, sha512Digest, "314c75335909f12fc9481eba67903d38aa43069b97c98014eb7554663352578b0cac21d42dbc47a2cc775228875cb114"},
	} {
		t.Run(name, func(t *testing.T) {
			digest := fromHex(t, c.digest)
			before := bytes.Clone(digest)
			got := c.register(digest)
			if hex.EncodeToString(got) != c.want {
				t.Errorf("got %x, want %s", got, c.want)
			}
			got[0] ^= 0xff
			if !bytes.Equal(digest, before) {
				t.Error("the register shares memory with the digest")
			}
		})
	}
}
