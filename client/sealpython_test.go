package client

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// signer is a program on paho-mqtt that signs a command as docs/security.md says, with Python's hmac, and one that it changes afterwards.
const signer = `
import base64, hmac, json, struct, sys, time
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes
host, port, key = sys.argv[1], int(sys.argv[2]), base64.b64decode(sys.argv[3])
try:
    c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
except AttributeError:
    c = mqtt.Client(protocol=mqtt.MQTTv5)
c.connect(host, port)
c.loop_start()
f = lambda b: struct.pack(">I", len(b)) + b
def send(id, change=b""):
    now, topic = time.time(), "lawnberry/commands/nav"
    payload = json.dumps({"metadata": {"timestamp": now, "message_id": id, "sender": "python", "message_type": "command", "priority": 1},
        "payload": {"target": "nav", "command": "echo", "parameters": {}, "require_ack": False}}).encode()
    text = b"".join(map(f, [b"lawnberry signature 1", b"hmac-sha256", b"python", b"message", topic.encode(), id.encode(), struct.pack(">d", now), payload]))
    p = Properties(PacketTypes.PUBLISH)
    p.UserProperty = [("signature", base64.b64encode(hmac.new(key, text, "sha256").digest()).decode()),
        ("signature-algorithm", "hmac-sha256"), ("signature-key", "python")]
    c.publish(topic, payload + change, qos=1, properties=p).wait_for_publish(10)
send("one")
send("two", b" ")
c.disconnect()
c.loop_stop()
`

// TestSignedByPython has a program that shares no code with ours sign.
func TestSignedByPython(t *testing.T) {
	t.Parallel()
	python := ""
	for _, p := range []string{os.Getenv("LAWNBERRY_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if p != "" && exec.Command(p, "-c", "import paho.mqtt.client").Run() == nil {
			python = p
			break
		}
	}
	if python == "" {
		t.Fatal("no Python with paho-mqtt: run scripts/test-deps")
	}
	secret := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	file := filepath.Join(t.TempDir(), "keys")
	line := fmt.Sprintf(`{"id":"python","algorithm":"hmac-sha256","key":%q,"identity":"python","created":"2026-01-01T00:00:00Z"}`, secret)
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startBroker(t)
	server := connect(t, Options{Dial: b.Dial, Signing: &Signing{KeyFile: file}})
	ran := serveEcho(t, server)
	for e := range b.Endpoints() {
		if e.Network != "tcp" {
			continue
		}
		host, port, err := net.SplitHostPort(e.Address)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(python, "-c", signer, host, port, secret).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	eventually(t, "one is executed and one refused", func() bool { return ran.Load() == 1 && server.Stats().Rejected[ReasonSignature] == 1 })
	if s := server.Stats(); s.Verified != 1 {
		t.Errorf("verified %d, rejected %v", s.Verified, s.Rejected)
	}
}
