package jwe

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math/big"
	"regexp"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/coco-e2e/coco-e2e/simulators/kbs/message"
)

const secret = "correct horse battery staple"

// RFC 7518, appendix C.
func TestConcatKDF(t *testing.T) {
	shared := []byte{
		158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156,
		251, 49, 110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
	}
	got := concatKDF(shared, "A128GCM", []byte("Alice"), []byte("Bob"), 16)
	if want := "VqqN6vgjbSBcIijNcacQGg"; encode(got) != want {
		t.Errorf("%s, want %s", encode(got), want)
	}
}

func ecKey(t *testing.T, curve elliptic.Curve) (*ecdsa.PrivateKey, message.PublicKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := 1 + (len(point)-1)/2
	return private, message.PublicKey{
		Type: "EC", Curve: curve.Params().Name, Algorithm: "ECDH-ES+A256KW", X: encode(point[1:half]), Y: encode(point[half:]),
	}
}

func rsaKey(t *testing.T) (*rsa.PrivateKey, message.PublicKey) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return private, message.PublicKey{Type: "RSA", Algorithm: "RSA-OAEP-256", N: encode(private.N.Bytes()), E: "AQAB"}
}

func encrypted(t *testing.T, key message.PublicKey) (raw []byte, fields map[string]string) {
	t.Helper()
	raw, err := Encrypt(key, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &fields); err != nil || len(fields) != 5 {
		t.Fatalf("%d fields, %v", len(fields), err)
	}
	return raw, fields
}

func unb64(t *testing.T, text string) []byte {
	t.Helper()
	value, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestGoJoseDecrypts(t *testing.T) {
	p256, p256Public := ecKey(t, elliptic.P256())
	p521, p521Public := ecKey(t, elliptic.P521())
	private, public := rsaKey(t)
	for _, c := range []struct {
		public  message.PublicKey
		private any
		header  string // with its order and compactness
	}{
		{p256Public, p256, `^\{"alg":"ECDH-ES\+A256KW","enc":"A256GCM","epk":\{"crv":"P-256","kty":"EC","x":"[\w-]{43}","y":"[\w-]{43}"\}\}$`},
		{p521Public, p521, `^\{"alg":"ECDH-ES\+A256KW","enc":"A256GCM","epk":\{"crv":"P-521","kty":"EC","x":"[\w-]{88}","y":"[\w-]{88}"\}\}$`},
		{public, private, `^\{"alg":"RSA-OAEP-256","enc":"A256GCM"\}$`},
	} {
		raw, fields := encrypted(t, c.public)
		if header := unb64(t, fields["protected"]); !regexp.MustCompile(c.header).Match(header) {
			t.Errorf("protected header %s, want %s", header, c.header)
		}
		parsed, err := jose.ParseEncryptedJSON(string(raw), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW, jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parsed.Decrypt(c.private); err != nil || string(got) != secret {
			t.Errorf("%s: %q %v", c.header, got, err)
		}
	}
}

// By the specifications alone, with nothing of the code under test and no JOSE library.
func TestDecryptsByTheBook(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P521()} {
		private, public := ecKey(t, curve)
		_, fields := encrypted(t, public)
		var header struct {
			EPK struct{ X, Y string }
		}
		if err := json.Unmarshal(unb64(t, fields["protected"]), &header); err != nil {
			t.Fatal(err)
		}
		ephemeral, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, unb64(t, header.EPK.X)...), unb64(t, header.EPK.Y)...))
		if err != nil {
			t.Fatal(err)
		}
		agreedPrivate, err := private.ECDH()
		if err != nil {
			t.Fatal(err)
		}
		agreedPublic, err := ephemeral.ECDH()
		if err != nil {
			t.Fatal(err)
		}
		shared, err := agreedPrivate.ECDH(agreedPublic)
		if err != nil {
			t.Fatal(err)
		}
		// counter ‖ Z ‖ AlgorithmID ‖ PartyUInfo ‖ PartyVInfo ‖ SuppPubInfo
		wrapping := sha256.Sum256(bytes.Join([][]byte{
			{0, 0, 0, 1}, shared, {0, 0, 0, 14}, []byte("ECDH-ES+A256KW"), {0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 1, 0},
		}, nil))
		open(t, unwrap(t, wrapping[:], unb64(t, fields["encrypted_key"])), fields)
	}
	private, public := rsaKey(t)
	_, fields := encrypted(t, public)
	content, err := rsa.DecryptOAEP(sha256.New(), nil, private, unb64(t, fields["encrypted_key"]), nil)
	if err != nil {
		t.Fatal(err)
	}
	open(t, content, fields)
}

func open(t *testing.T, content []byte, fields map[string]string) {
	t.Helper()
	block, err := aes.NewCipher(content)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv, tag := unb64(t, fields["iv"]), unb64(t, fields["tag"])
	if len(iv) != 12 || len(tag) != 16 {
		t.Fatalf("iv of %d bytes, tag of %d", len(iv), len(tag))
	}
	got, err := gcm.Open(nil, iv, append(unb64(t, fields["ciphertext"]), tag...), []byte(fields["protected"]))
	if err != nil || string(got) != secret {
		t.Errorf("%q %v", got, err)
	}
}

// unwrap is RFC 3394, section 2.2.2.
func unwrap(t *testing.T, key, wrapped []byte) []byte {
	t.Helper()
	if len(wrapped) != 40 {
		t.Fatalf("encrypted key of %d bytes", len(wrapped))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	a, r := bytes.Clone(wrapped[:8]), bytes.Clone(wrapped[8:])
	n := len(r) / 8
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			step := make([]byte, 16)
			binary.BigEndian.PutUint64(step, binary.BigEndian.Uint64(a)^uint64(n*j+i))
			copy(step[8:], r[8*(i-1):8*i])
			block.Decrypt(step, step)
			copy(a, step[:8])
			copy(r[8*(i-1):], step[8:])
		}
	}
	if !bytes.Equal(a, bytes.Repeat([]byte{0xa6}, 8)) {
		t.Fatal("key unwrap: wrong integrity value")
	}
	return r
}

func TestEncryptRefusesBadKeys(t *testing.T) {
	_, ec := ecKey(t, elliptic.P256())
	_, public := rsaKey(t)
	ones := func(bytes int) string {
		return encode(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(8*bytes)), big.NewInt(1)).Bytes())
	}
	for name, c := range map[string]struct {
		change func() message.PublicKey
		want   string
	}{
		"RSA-OAEP with SHA-1":   {func() message.PublicKey { k := public; k.Algorithm = "RSA-OAEP"; return k }, "RSA-OAEP"},
		"RSA1_5":                {func() message.PublicKey { k := public; k.Algorithm = "RSA1_5"; return k }, "RSA1_5"},
		"small RSA key":         {func() message.PublicKey { k := public; k.N = ones(128); return k }, "1024 bits"},
		"even exponent":         {func() message.PublicKey { k := public; k.E = "BA"; return k }, "odd exponent"},
		"exponent one":          {func() message.PublicKey { k := public; k.E = "AQ"; return k }, "odd exponent"},
		"no base64":             {func() message.PublicKey { k := public; k.N = "=" + k.N; return k }, "n: "},
		"P-384":                 {func() message.PublicKey { k := ec; k.Curve = "P-384"; return k }, "P-384"},
		"point not on curve":    {func() message.PublicKey { k := ec; k.X = encode(make([]byte, 32)); k.Y = k.X; return k }, "tee-pubkey"},
		"x too short":           {func() message.PublicKey { k := ec; k.X = encode(make([]byte, 31)); return k }, "want 32 each"},
		"P-256 point for P-521": {func() message.PublicKey { k := ec; k.Curve = "P-521"; return k }, "want 66 each"},
		"nothing":               {func() message.PublicKey { return message.PublicKey{} }, "kty"},
	} {
		if _, err := Encrypt(c.change(), []byte(secret)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
