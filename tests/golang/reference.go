// What Go's standard library makes of PEM texts, certificates, signatures, varints and URIs: the reference for our decoders.
//
// It reads frames (one byte for the kind, four for the length, the content) and answers each with a line.
package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	defer out.Flush()
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		content := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(in, content); err != nil {
			return
		}
		fmt.Fprintln(out, answer(head[0], content))
		if in.Buffered() == 0 {
			out.Flush()
		}
	}
}

func answer(kind byte, content []byte) string {
	switch kind {
	case 'p':
		return readPem(content)
	case 'c':
		return readCertificate(content)
	case 'l':
		return readRevocationList(content)
	case 's':
		return readSignature(content)
	case 'v':
		return readVarint(content)
	case 'n':
		return verifyChain(content)
	case 'j':
		return respell(content)
	}
	return "unknown kind"
}

// What a state database of the kind CouchDB gives back of a value, as Fabric writes it and reads it again.
func respell(content []byte) string {
	written := make(map[string]interface{})
	if json.Unmarshal(content, &written) != nil || written == nil {
		return hex.EncodeToString(content)
	}
	for name := range written {
		if strings.HasPrefix(name, "_") || name == "~version" {
			return "refused"
		}
	}
	stored, _ := json.Marshal(written)
	read := make(map[string]interface{})
	decoder := json.NewDecoder(bytes.NewReader(stored))
	decoder.UseNumber()
	if decoder.Decode(&read) != nil {
		return "refused"
	}
	given, _ := json.Marshal(read)
	return hex.EncodeToString(given)
}

// Whether a chain of certificates (each after its length in four bytes, the lowest first) leads to its last one.
func verifyChain(content []byte) string {
	chain := []*x509.Certificate{}
	for len(content) >= 4 {
		size := binary.BigEndian.Uint32(content)
		c, err := x509.ParseCertificate(content[4 : 4+size])
		if err != nil {
			return "refused"
		}
		chain = append(chain, c)
		content = content[4+size:]
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: chain[0].NotBefore.Add(time.Second),
	}
	options.Roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[1 : len(chain)-1] {
		options.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(options)
	return fmt.Sprint(err == nil)
}

func readPem(content []byte) string {
	block, _ := pem.Decode(content)
	if block == nil {
		return "refused"
	}
	return hex.EncodeToString([]byte(block.Type)) + " " + hex.EncodeToString(block.Bytes)
}

func readCertificate(content []byte) string {
	c, err := x509.ParseCertificate(content)
	if err != nil {
		return "refused"
	}
	key := "other"
	switch c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		key = "ecdsa"
	case ed25519.PublicKey:
		key = "ed25519"
	}
	units := []string{}
	for _, unit := range c.Subject.OrganizationalUnit {
		units = append(units, hex.EncodeToString([]byte(unit)))
	}
	may := len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0
	for _, usage := range c.ExtKeyUsage {
		may = may || usage == x509.ExtKeyUsageAny || usage == x509.ExtKeyUsageServerAuth
	}
	length := -1
	if c.BasicConstraintsValid {
		length = c.MaxPathLen
	}
	signed := "other"
	switch c.SignatureAlgorithm {
	case x509.ECDSAWithSHA1:
		signed = "SHA1"
	case x509.ECDSAWithSHA256:
		signed = "SHA256"
	case x509.ECDSAWithSHA384:
		signed = "SHA384"
	case x509.ECDSAWithSHA512:
		signed = "SHA512"
	case x509.PureEd25519:
		signed = "ed25519"
	}
	return fmt.Sprintf("%d %s %s %d %d %s %v %v %d %d %x %x %v %d %s %x %x %x",
		c.Version, c.SerialNumber, key, c.NotBefore.Unix(), c.NotAfter.Unix(), strings.Join(units, ","),
		c.BasicConstraintsValid, c.IsCA, length, c.KeyUsage&0x1ff, c.SubjectKeyId, c.AuthorityKeyId, may,
		len(c.UnhandledCriticalExtensions), signed, c.Signature, c.RawIssuer, c.RawSubject)
}

// What Fabric unmarshals the authority key identifier of a revocation list into.
type authorityKey struct {
	KeyIdentifier             []byte  `asn1:"optional,tag:0"`
	AuthorityCertIssuer       []byte  `asn1:"optional,tag:1"`
	AuthorityCertSerialNumber big.Int `asn1:"optional,tag:2"`
}

func readRevocationList(content []byte) string {
	list, err := x509.ParseCRL(content) //nolint:staticcheck // Fabric uses it
	if err != nil {
		return "refused"
	}
	numbers := map[string]*big.Int{}
	for _, revoked := range list.TBSCertList.RevokedCertificates {
		numbers[revoked.SerialNumber.String()] = revoked.SerialNumber
	}
	sorted := slices.SortedFunc(maps.Values(numbers), func(a, b *big.Int) int { return a.Cmp(b) })
	serials := []string{}
	for _, number := range sorted {
		serials = append(serials, number.String())
	}
	key := "none"
	for _, extension := range list.TBSCertList.Extensions {
		if extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 35}) {
			found := authorityKey{}
			if _, err := asn1.Unmarshal(extension.Value, &found); err == nil {
				key = hex.EncodeToString(found.KeyIdentifier)
			}
			break
		}
	}
	return fmt.Sprintf("%s %x %s %s %x %x", list.SignatureAlgorithm.Algorithm, list.SignatureAlgorithm.Parameters.FullBytes,
		strings.Join(serials, ","), key, list.SignatureValue.RightAlign(), []byte(list.TBSCertList.Raw))
}

func readSignature(content []byte) string {
	var signature struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(content, &signature); err != nil || signature.R.Sign() <= 0 || signature.S.Sign() <= 0 {
		return "refused"
	}
	return fmt.Sprintf("%s %s", signature.R, signature.S)
}

func readVarint(content []byte) string {
	value, size := binary.Uvarint(content)
	if size <= 0 {
		return "refused"
	}
	return fmt.Sprintf("%d %d", value, size)
}
