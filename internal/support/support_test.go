package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/doctor"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/pki"
	"github.com/lawnberry/lawnberry/internal/seal"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unpack returns the files of an archive.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 || h.Typeflag != tar.TypeReg {
			t.Errorf("%s has mode %o and type %c", h.Name, h.Mode, h.Typeflag)
		}
		files[strings.TrimPrefix(h.Name, folder)] = string(body)
	}
}

// A planter makes secrets, and remembers them.
type planter struct{ planted map[string]string } // by secret: where it is

func (p *planter) seed(where string) string {
	s := fmt.Sprintf("Zx%dq/%+d&\"hush", 7000+len(p.planted), len(p.planted)) // with what is encoded in some places
	p.planted[s] = where
	return s
}

// plain is seed without what would have to be quoted.
func (p *planter) plain(where string) string {
	s := fmt.Sprintf("hush%dPlain", 7000+len(p.planted))
	p.planted[s] = where
	return s
}

// leaks names the secrets that are in a text, in any encoding.
func (p *planter) leaks(text string) (found []string) {
	for s, where := range p.planted {
		quoted, _ := json.Marshal(s)
		for _, form := range []string{
			s, strings.Trim(string(quoted), `"`), url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)),
			base64.RawURLEncoding.EncodeToString([]byte(s)),
		} {
			if strings.Contains(text, form) {
				found = append(found, where)
				break
			}
		}
	}
	slices.Sort(found)
	return found
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// ends calls f at the end of the test.
func ends(t *testing.T, f func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	})
}

// files plants secrets in the data directory.
func (p *planter) files(t *testing.T, dir string) (keys string) {
	t.Helper()
	hash := identity.Hash(p.plain("password of a user"))
	if err := identity.Edit(dir, func(b *identity.Book) error { return b.Add("ann", "admin", hash) }); err != nil {
		t.Fatal(err)
	}
	p.planted[hash] = "hash in the users file"
	a, err := pki.Create(filepath.Join(dir, "tls"), "garden", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(pki.Request{Name: "broker", Server: true, Hosts: []string{"localhost"}}); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "tls", "broker.key"))
	if err != nil {
		t.Fatal(err)
	}
	p.planted[strings.Split(string(pem), "\n")[1]] = "private key of a certificate"
	k, err := seal.Generate(seal.HMAC, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	keys = filepath.Join(dir, "keys")
	if err := seal.Create(keys, k); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	var entry struct {
		Key string `json:"key"`
	}
	_, line, _ := strings.Cut(string(text), "\n") // after the heading
	if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Key == "" {
		t.Fatalf("%v in %s", err, text)
	}
	p.planted[entry.Key] = "signing key"
	return keys
}

// log plants secrets in the lines of a log.
func (p *planter) log(known string) string {
	line := func(fields map[string]any) string {
		text, _ := json.Marshal(fields) // texts and maps always encode
		return string(text) + "\n"
	}
	nested, _ := json.Marshal(map[string]any{"user": "ann", "password": p.seed("JSON in a JSON text in a log")})
	q := p.seed("password in a URL in a log")
	return line(map[string]any{"level": "INFO", "msg": "started the engine", "port": 1883}) +
		line(map[string]any{"msg": "login", "password": p.seed("password field of a log line")}) +
		line(map[string]any{"msg": "deep",
			"http": map[string]any{"headers": []any{map[string]any{"Authorization": "Bearer " + p.plain("header of a log")}}}}) +
		line(map[string]any{"msg": "got " + string(nested)}) +
		line(map[string]any{"msg": "connect to tcp://ann:" + url.QueryEscape(q) + "@mower.example:1883 failed"}) +
		line(map[string]any{"msg": "the secret as it is: " + known}) +
		line(map[string]any{"msg": "the secret in base64: " + base64.StdEncoding.EncodeToString([]byte(known))}) +
		"GET /api?key=" + p.plain("key of a query in a log") + "&page=2 200\n" +
		"time=1 msg=hello api_token=" + p.plain("logfmt in a log") + " user=ann\n" +
		"password: " + p.plain("text in a log") + " " + p.plain("second word of it") + "\n" +
		`escaped: {\"psk\": \"` + p.plain("escaped JSON in a log") + `\"}` + "\n" +
		"wlan0: associating with SSID '" + p.plain("Wi-Fi name in a log") + "'\n" +
		"wlan0: psk=\"" + p.plain("Wi-Fi password in a log") + "\"\n" +
		"mail to " + p.plain("mail address") + "@garden.example, hardware 00:1b:44:11:3a:b7\n" +
		"-----BEGIN EC PRIVATE KEY-----\n" + p.plain("line of a key in a log") + "\n" + p.plain("second line of it") + "\n-----END EC PRIVATE KEY-----\n" +
		"lawnberry user add ann --password " + p.plain("flag in a log") + "\n"
}

// bus plants secrets in messages.
func (p *planter) bus(t *testing.T, url, known string) {
	t.Helper()
	s, err := service.Start(t.Context(), service.Options{
		ID: "mission", Type: "test", Client: client.Options{URL: url}, Endpoints: map[string]string{"data": "sensors/test/data"}, Metadata: map[string]any{
			"colour": "green", "wifi_password": p.seed("metadata of a service"), "cloud": map[string]any{"api_token": p.seed("nested metadata of a service")},
			"page": "https://ann:" + p.plain("URL in metadata") + "@mower.example/", "gps": []any{p.plain("place in metadata")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, s.Stop)
	s.SetState(service.Degraded, "cannot log in with "+known)
	if err := s.EmitAlert(t.Context(), message.Alert{
		AlertType: "login", Severity: "error", Message: "refused: password=" + p.plain("text of an alert"),
		Context: json.RawMessage(`{"detail": "` + p.plain("context of an alert") + `"}`),
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), "sensors/"+base64.RawURLEncoding.EncodeToString([]byte(known))+"/status",
		message.NewRaw([]byte(p.plain("payload"))), client.WithRetain(true)); err != nil {
		t.Fatal(err)
	}
	// Events are not retained: it comes again and again.
	value := p.plain("value of an event")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			m, err := message.NewEvent("mission", message.Event{EventType: "note", Source: "mission",
				EventData: json.RawMessage(`{"remark": "` + value + `"}`)})
			if err == nil {
				s.Client().PublishAsync("system/events/note", m, client.Unlimited())
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

// Secrets are planted wherever there are any, and none is in the bundle. Seen failing without literals, without named, without the rule of URLs,
// and with the values of events.
func TestSecretsStayOut(t *testing.T) {
	b := brokertest.Start(t)
	p := &planter{planted: map[string]string{}}
	dir := filepath.Join(t.TempDir(), "data")
	keys := p.files(t, dir)
	known := p.seed("client.auth.password in the file")
	write(t, filepath.Join(dir, "backup-"+url.PathEscape(known)), "")
	quote := func(s string) string { text, _ := json.Marshal(s); return string(text) }
	file := write(t, filepath.Join(t.TempDir(), "mower.yaml"), strings.Join([]string{
		"# the old password was " + p.plain("comment in the configuration"),
		"x-shared: &shared " + quote(p.seed("anchor in the configuration")),
		"broker: {auth: {enabled: true, username: ann, password: *shared}, pasword: " + quote(p.seed("misspelt key")) + "}",
		"client: {auth: {enabled: true, username: ann, password: " + quote(known) + "}}",
		"integration: {cloud_logging: {enabled: true, endpoint: 'https://logs.example/in?key=" +
			p.plain("key in a URL of the configuration") + "', token: " +
			quote(p.seed("token in the configuration")) + "}, home_assistant: {origin: {latitude: 52.123456, longitude: 13.654321}}}",
		"security: {signing: {enabled: true, key_file: " + quote(keys) + "}}",
		"wifi: {name: " + p.plain("Wi-Fi name in the configuration") + ", psk: [" + p.plain("Wi-Fi password in the configuration") + "]}",
		"service_definitions: {mission: {service_type: test}}",
	}, "\n")+"\n")
	p.planted["52.123456"], p.planted["13.654321"] = "latitude", "longitude"
	environ := []string{
		"MQTT_PASSWORD=" + p.seed("MQTT_PASSWORD"), "LAWNBERRY_PASSWORD=" + p.seed("LAWNBERRY_PASSWORD"),
		"LAWNBERRY_BROKER_URL=tcp://ann:" + url.QueryEscape(p.seed("LAWNBERRY_BROKER_URL")) + "@localhost:1883",
		"LAWNBERRY_ODD=" + p.seed("unknown variable"),
		"LAWNBERRY_INTEGRATION_CLOUD_LOGGING_TOKEN=" + p.seed("token in the environment"), "LAWNBERRY_BROKER_KEEPALIVE=77",
		"GITHUB_TOKEN=" + p.seed("another's variable"),
	}
	log := write(t, filepath.Join(dir, "serve.log"), p.log(known))
	waiting := write(t, filepath.Join(dir, "cloud_logging", "1.lines"), `{"msg": "waits", "secret": `+quote(p.seed("waiting log line"))+"}\n")

	hub, err := safety.StartHub(t.Context(), safety.HubOptions{Client: client.Options{URL: b.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	ends(t, hub.Stop)
	p.bus(t, b.URL(), known)

	loaded, failed := config.Salvage(file, environ)
	reach := client.Options{URL: b.URL(), ID: "probe", Username: "ann", Password: client.Secret(p.seed("login"))}
	r, err := doctor.Examine(t.Context(), doctor.Options{Loaded: loaded, Failed: failed, DataDir: dir, Client: reach, Listen: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	journal := p.plain("journal")
	bundle, err := Collect(t.Context(), Options{
		Loaded: loaded, Failed: failed, Environ: environ, DataDir: dir, Client: reach, Version: "1.2.3", Explained: explain(loaded), Report: &r,
		Findings: "error: password is " + known, Secrets: []string{p.seed("command line")}, Logs: []string{log},
		Journal: func(context.Context) (string, error) { return "lawnberry: token=" + journal + "\n", nil }, Now: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := bundle.Write(&archive); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, archive.Bytes())
	if len(p.planted) < 45 {
		t.Errorf("only %d secrets", len(p.planted))
	}
	for name, text := range files {
		for _, where := range p.leaks(text + name) {
			t.Errorf("%s shows the secret that is planted as: %s", name, where)
		}
		if strings.HasSuffix(name, ".json") && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON", name)
		}
	}
	// What is no secret is there.
	for name, part := range map[string]string{
		"manifest.json": `"a secret of the configuration, the environment or a key file": `, "versions.json": `"kernel"`,
		"config/file.yaml":      "username: ann",
		"config/effective.yaml": "keepalive: 77", "config/explain.json": "LAWNBERRY_BROKER_PORT", "config/problems.json": "broker.pasword",
		"environment.txt": "LAWNBERRY_BROKER_KEEPALIVE=77", "doctor.txt": "error: password is", "doctor.json": "service-unable",
		"bus/broker.json":   "publish/messages/received",
		"bus/services.json": `"colour": "green"`, "bus/topics.json": "system/services/mission/status", "bus/alerts.json": `"detail"`,
		"bus/events.json":         `"remark"`,
		"bus/emergency-stop.json": `"sequence"`, "certificates.json": `"ECDSA P-256"`, "data-directory.json": "users.yaml",
		"logs/01-serve.log.txt": "started the engine", "logs/02-1.lines.txt": "waits", "logs/journal.txt": "lawnberry:",
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s lacks %q:\n%.2000s", name, part, files[name])
		}
	}
	if strings.Contains(files["config/file.yaml"], "#") {
		t.Errorf("there are comments in %s", files["config/file.yaml"])
	}
	if _, err := os.Stat(waiting); err != nil {
		t.Error(err)
	}
	t.Logf("%d secrets in %d files of %d bytes: %v", len(p.planted), len(files), archive.Len(), bundle.Manifest.Redacted)
}

// explain is what the command line makes of the keys.
func explain(l *config.Loaded) any {
	values := map[string]any{}
	for e := range l.Effective() {
		values[e.Key] = e.Value
	}
	type one struct {
		config.Key
		Value any `json:"value"`
	}
	var all []one
	for k := range config.Keys() {
		all = append(all, one{k, values[k.Path]})
	}
	return all
}

// A file that is not YAML may hold a secret anywhere.
func TestBrokenFile(t *testing.T) {
	p := &planter{planted: map[string]string{}}
	file := write(t, filepath.Join(t.TempDir(), "mower.yaml"),
		"broker:\n  port: [1883\n  auth:\n    password: |\n      "+p.plain("block")+"\n    "+p.plain("text")+"\n# "+p.plain("comment")+"\n")
	loaded, failed := config.Salvage(file, nil)
	b, err := Collect(t.Context(), Options{Loaded: loaded, Failed: failed, Unchecked: errors.New("not examined"), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := b.Write(&archive); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, archive.Bytes())
	for name, text := range files {
		if leaks := p.leaks(text); leaks != nil {
			t.Errorf("%s shows %q: %s", name, leaks, text)
		}
	}
	if !strings.Contains(files["config/file.yaml"], "password:") || !strings.Contains(files["config/problems.json"], "error") {
		t.Errorf("%s %s", files["config/file.yaml"], files["config/problems.json"])
	}
	var missing []string
	for _, m := range b.Manifest.Missing {
		missing = append(missing, m.What)
	}
	if !slices.Contains(missing, "bus") || !slices.Contains(missing, "doctor") || !slices.Contains(missing, "data directory") {
		t.Errorf("missing %q", missing)
	}
}

// A bundle keeps its bounds, whatever the logs are.
func TestBounds(t *testing.T) {
	dir := t.TempDir()
	var logs []string
	key := "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n",
		maxLog/32) + "-----END PRIVATE KEY-----\nafter the key\n"
	logs = append(logs, write(t, filepath.Join(dir, "key.log"), key))
	big := strings.Repeat("a line that is one of many\n", 2*MaxFile/27) + "the last line\n"
	for i := range maxLogs + 3 {
		logs = append(logs, write(t, filepath.Join(dir, fmt.Sprintf("%d.log", i)), big))
	}
	logs = append([]string{filepath.Join(dir, "none.log"), dir, "/dev/zero"}, logs...)
	loaded, _ := config.Salvage("", nil)
	huge := strings.Repeat("x", 3*MaxFile)
	b, err := Collect(t.Context(), Options{Loaded: loaded, Report: &doctor.Report{}, Findings: huge, Logs: logs, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	cut := map[string]bool{}
	for i, f := range b.Manifest.Files {
		if total += f.Bytes; f.Bytes > MaxFile || f.Bytes != len(b.bodies[i]) {
			t.Errorf("%+v", f)
		}
		cut[f.Name] = f.Cut
		switch text := string(b.bodies[i]); {
		case strings.HasSuffix(f.Name, "key.log.txt") && (strings.Contains(text, "MIIE") || !strings.Contains(text, "after the key")):
			t.Errorf("%s shows a key whose beginning is further up: %.200s", f.Name, text)
		case strings.HasSuffix(f.Name, "0.log.txt") && !strings.HasSuffix(text, "the last line\n"):
			t.Errorf("%s lacks its end", f.Name)
		}
	}
	if total > MaxBundle || !cut["doctor.txt"] {
		t.Errorf("%d bytes, cut: %v", total, cut)
	}
	reasons := map[string]string{}
	for _, m := range b.Manifest.Missing {
		reasons[m.What] = m.Why
	}
	for what, why := range map[string]string{"log /dev/zero": "regular", "log " + dir: "regular", "log " + filepath.Join(dir,
		"none.log"): "no such file", "further logs": "more than 16"} {
		if !strings.Contains(reasons[what], why) {
			t.Errorf("%s: %q", what, reasons[what])
		}
	}
	t.Logf("%d files, %d bytes, missing %q", len(b.Manifest.Files), total, slices.Sorted(maps.Keys(reasons)))
}

// What is no secret stays, or nobody could be helped.
func TestPlainTextStays(t *testing.T) {
	for _, s := range []string{
		"connected to tcp://localhost:1883 as navigation", "port 1883 is taken by process 812 (mosquitto): stop it, or set broker.port",
		"session away has lost 2 messages", "broker.auth.enabled needs a password", "token: false", `{"password": ""}`, "the key of the configuration",
		"2026-11-29T06:12:00Z level=INFO msg=ready", "basic settings", "monkey=banana", "12:34:56", "sha256 of it",
	} {
		if got := newRedactor().text(s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

// Short secrets are left out as words, not within others.
func TestShortSecrets(t *testing.T) {
	r := newRedactor()
	r.know("abc", "", " ", "x1")
	if got := r.text("abc abcd (abc) x1=x1"); got != "(hidden) abcd ((hidden)) (hidden)=(hidden)" {
		t.Errorf("got %q", got)
	}
}

// FuzzRedact: a secret that is known is in no text, whatever stands around it, and a line of JSON stays one.
func FuzzRedact(f *testing.F) {
	f.Add(`{"msg": "`, `"}`)
	f.Add("password=", " next=1")
	f.Add("tcp://ann:", "@mower")
	f.Add(`{\"token\": \"`, `\"}`)
	f.Add("\xff-----BEGIN PRIVATE KEY-----", "")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "hush7000Plain"
		r := newRedactor()
		r.know(secret)
		line := before + secret + after
		if got := r.line(line); strings.Contains(got, secret) {
			t.Errorf("%q became %q", line, got)
		}
		if got := r.text(line); strings.Contains(got, secret) {
			t.Errorf("%q became %q", line, got)
		}
		if json.Valid([]byte(line)) && strings.HasPrefix(line, "{") && !json.Valid([]byte(r.line(line))) {
			t.Errorf("%q is no JSON any more: %q", line, r.line(line))
		}
	})
}
