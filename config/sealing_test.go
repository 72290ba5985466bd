package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/seal"
)

func TestSealing(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	k, err := seal.Generate(seal.HMAC, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.Create(keys, k); err != nil {
		t.Fatal(err)
	}
	l, ps := loadText(`security:
  signing: {enabled: true, algorithm: HMAC-SHA256, key_file: ` + keys + `, policies: {commands/blade: Require, "#": off}, window: 5}
  encryption: {enabled: true, key_file: ` + keys + `, topics: ["navigation/#"]}
`)
	if len(ps) != 0 {
		t.Fatal(ps)
	}
	o, err := l.Config.ClientOptions()
	if err != nil {
		t.Fatal(err)
	}
	policies := []client.Policy{{Filter: "#"}, {Filter: "commands/blade", Verify: client.VerifyRequired}}
	if g := o.Signing; g == nil || g.KeyFile != keys || g.Algorithm != seal.HMAC || g.Window != 5*time.Second || !slices.Equal(g.Policies, policies) {
		t.Errorf("signing: %+v", g)
	}
	if e := o.Encryption; e == nil || e.KeyFile != keys || !slices.Equal(e.Topics, []string{"navigation/#"}) {
		t.Errorf("encryption: %+v", e)
	}
	if o, err := Default().ClientOptions(); err != nil || o.Signing != nil || o.Encryption != nil {
		t.Errorf("by default: %+v, %+v, %v", o.Signing, o.Encryption, err)
	}

	// The file is of no use any more.
	if err := os.Chmod(keys, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Config.ClientOptions(); err == nil || !strings.Contains(err.Error(), "security.signing.key_file") || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by all: %v", err)
	}
}

func TestSealingMistakes(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"signing: {enabled: true}", "security.signing.enabled needs a key file"},
		{"signing: {enabled: true, key_file: k, algorithm: rsa}", `"rsa" is unknown, want hmac-sha256 or ed25519`},
		{"signing: {policies: {commands/+: always}}", `"always" is unknown, want off, verify or require`},
		{`signing: {policies: {"a/#/b": verify}}`, "a/#/b"},
		{"signing: {policies: [commands]}", "want a mapping"},
		{"signing: {policies: {a: {b: c}}}", "want off, verify or require"},
		{"signing: {window: 0}", "out of range"},
		{"encryption: {enabled: true, topics: [a]}", "security.encryption.enabled needs a key file"},
		{"encryption: {enabled: true, key_file: k, topics: [a], algorithm: aes}", "want aes-256-gcm"},
		{"encryption: {enabled: true, key_file: k}", "nothing is encrypted"},
	} {
		_, ps := loadText("security: {" + tt.text + "}")
		if len(ps) != 1 || !strings.Contains(ps[0].Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.text, ps, tt.want)
		}
	}
	if _, ps := loadText("security: {signing: {algorithm: HMAC}, encryption: {algorithm: AES}}"); len(ps) != 0 { // as files have it that use neither
		t.Error(ps)
	}
}
