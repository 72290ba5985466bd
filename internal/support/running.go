package support

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/process"
)

// metricsTime is how long the bridge for browsers has to give its figures.
const metricsTime = 5 * time.Second

// versions adds what the program and the computer are. The computer's name is not among it.
func (c *collector) versions(ctx context.Context) error {
	v := map[string]any{"lawnberry": c.o.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "cpus": runtime.NumCPU()}
	if i, err := host.InfoWithContext(ctx); err == nil {
		v["system"] = map[string]any{
			"os": i.OS, "distribution": i.Platform, "version": i.PlatformVersion, "kernel": i.KernelVersion, "architecture": i.KernelArch,
			"uptime_s": i.Uptime, "virtualization": i.VirtualizationSystem,
		}
	}
	if all, err := cpu.InfoWithContext(ctx); err == nil && len(all) > 0 {
		v["cpu"] = map[string]any{"model": all[0].ModelName, "mhz": all[0].Mhz}
	}
	if m, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		v["memory"] = map[string]any{"total_bytes": m.Total, "available_bytes": m.Available}
	}
	if l, err := load.AvgWithContext(ctx); err == nil {
		v["load"] = l
	}
	if c.o.DataDir != "" {
		if u, err := disk.UsageWithContext(ctx, c.o.DataDir); err == nil {
			v["disk"] = map[string]any{"filesystem": u.Fstype, "total_bytes": u.Total, "free_bytes": u.Free, "inodes_free": u.InodesFree}
		}
	}
	return c.addJSON("versions.json", "program, system, computer", v, true)
}

// doctor adds what was found.
func (c *collector) doctor(context.Context) error {
	if c.o.Report == nil {
		return c.o.Unchecked
	}
	c.add("doctor.txt", "what is wrong, for people", c.r.text(c.o.Findings), false)
	return c.addJSON("doctor.json", "what is wrong", c.o.Report, true)
}

// bus adds what was heard on the bus.
func (c *collector) bus(context.Context) error {
	if c.o.Report == nil || c.o.Report.Bus == nil {
		return errors.New("the broker could not be listened to: see what doctor says of it")
	}
	b := c.o.Report.Bus
	errs := []error{
		c.addJSON("bus/broker.json", "what the broker is, and says of itself", map[string]any{"server": b.Server, "sys": b.Sys}, true),
		c.addJSON("bus/services.json", "the services, with what they say of themselves", b.Services, false),
		c.addJSON("bus/topics.json", "what was published while it was listened, without what was in it", b.Topics, false),
	}
	alerts := []map[string]any{}
	for _, a := range b.Alerts {
		alerts = append(alerts, map[string]any{
			"alert_type": a.AlertType, "severity": a.Severity, "message": a.Message, "acknowledged": a.Acknowledged, "auto_resolve": a.AutoResolve,
			"sender": a.Sender, "time": a.Time, "context_has": names(a.Context),
		})
	}
	events := []map[string]any{}
	for _, e := range b.Events {
		events = append(events, map[string]any{
			"event_type": e.EventType, "category": e.Category, "source": e.Source, "sender": e.Sender, "time": e.Time, "data_has": names(e.EventData),
		})
	}
	errs = append(errs,
		c.addJSON("bus/alerts.json", "the alerts that stand", alerts, false),
		c.addJSON("bus/events.json", "the events that came while it was listened, without their values; the broker keeps none", events, false))
	if b.Stop == nil {
		c.miss("state of the emergency stop", errors.New("its hub did not answer"))
	} else {
		errs = append(errs, c.addJSON("bus/emergency-stop.json", "the state of the emergency stop", b.Stop, false))
	}
	return errors.Join(errs...)
}

// names returns the names in an object.
func names(object json.RawMessage) []string {
	var m map[string]json.RawMessage
	_ = json.Unmarshal(object, &m) // what is none has none
	return slices.Sorted(maps.Keys(m))
}

// process adds what the system says of the process that keeps the emergency stop, if it is lawnberry serve on this computer.
func (c *collector) process(ctx context.Context) error {
	pid := c.servePID()
	if pid == 0 {
		return errors.New("no process of lawnberry serve is known on this computer")
	}
	p, err := process.NewProcessWithContext(ctx, pid)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	line, _ := p.CmdlineSliceWithContext(ctx)
	self, _ := os.Executable() // without its name that of the program counts
	if len(line) == 0 || !strings.Contains(filepath.Base(line[0]), "lawnberry") && filepath.Base(line[0]) != filepath.Base(self) {
		return fmt.Errorf("process %d is not lawnberry: the number is another's by now", pid)
	}
	v := map[string]any{"pid": pid, "command": c.r.text(strings.Join(line, " "))}
	if at, err := p.CreateTimeWithContext(ctx); err == nil {
		v["started"] = time.UnixMilli(at).UTC()
	}
	if m, err := p.MemoryInfoWithContext(ctx); err == nil && m != nil {
		v["resident_bytes"] = m.RSS
	}
	if t, err := p.TimesWithContext(ctx); err == nil {
		v["cpu_user_s"], v["cpu_system_s"] = t.User, t.System
	}
	if n, err := p.NumThreadsWithContext(ctx); err == nil {
		v["threads"] = n
	}
	if n, err := p.NumFDsWithContext(ctx); err == nil {
		v["files_open"] = n
	}
	if limits, err := readSome(fmt.Sprintf("/proc/%d/limits", pid), 1<<16); err == nil {
		v["limits"] = strings.Split(strings.TrimSpace(string(limits)), "\n")
	}
	return c.addJSON("process.json", "the process of lawnberry serve", v, true)
}

// servePID returns the process that has the data directory, or keeps the emergency stop on this computer; 0 when there is none.
func (c *collector) servePID() int32 {
	if c.o.DataDir != "" {
		if text, err := readSome(filepath.Join(c.o.DataDir, "lawnberry.lock"), 64); err == nil {
			if pid, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 32); err == nil && pid > 0 {
				return int32(pid)
			}
		}
	}
	if c.o.Report == nil || c.o.Report.Bus == nil {
		return 0
	}
	for _, s := range c.o.Report.Bus.Services {
		var status struct {
			Details struct {
				Host string `json:"host"`
				PID  int32  `json:"pid"`
			} `json:"details"`
		}
		if here, err := os.Hostname(); s.ID == "emergency_stop" && s.Live && json.Unmarshal(s.Status, &status) == nil && err == nil &&
			status.Details.Host == here {
			return status.Details.PID
		}
	}
	return 0
}

// metrics adds the figures that lawnberry serve has for Prometheus.
func (c *collector) metrics(ctx context.Context) error {
	cfg := c.o.Loaded.Config
	bridge := cfg.Integration.WebSocketBridge
	switch {
	case !bridge.Enabled || !cfg.Monitoring.Metrics.Enabled:
		return errors.New("integration.websocket_bridge or monitoring.metrics is off")
	case bridge.Port == 0:
		return errors.New("integration.websocket_bridge.port is 0: which one it got is not known")
	}
	o, scheme := c.o.Client, "http"
	transport := &http.Transport{DisableKeepAlives: true}
	if cfg.Broker.TLS.Enabled {
		scheme, transport.TLSClientConfig = "https", o.TLS
		if o.GetTLS != nil {
			t, err := o.GetTLS(slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			transport.TLSClientConfig = t
		}
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, metricsTime)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort("localhost", strconv.Itoa(bridge.Port))+"/metrics", nil)
	if err != nil {
		return err
	}
	if o.Username != "" {
		q.SetBasicAuth(o.Username, string(o.Password))
	}
	a, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("the bridge for browsers answers %s: it wants the login of client.auth", a.Status)
	}
	text, err := io.ReadAll(io.LimitReader(a.Body, MaxFile))
	if err != nil {
		return err
	}
	c.add("metrics.txt", "figures for Prometheus", c.r.text(string(text)), false)
	return nil
}

// logs adds the ends of logs: of the files that were named, of what waits for integration.cloud_logging, and of the system's journal.
func (c *collector) logs(ctx context.Context) error {
	files := slices.Clone(c.o.Logs)
	if c.o.DataDir != "" {
		waiting, _ := filepath.Glob(filepath.Join(c.o.DataDir, "cloud_logging", "*")) // the pattern is right
		files = append(files, waiting[max(0, len(waiting)-3):]...)
	}
	for i, file := range files {
		if i == maxLogs {
			c.miss("further logs", fmt.Errorf("there are more than %d", maxLogs))
			break
		}
		text, err := tail(file, maxLog)
		if err != nil {
			c.miss("log "+file, err)
			continue
		}
		c.add(fmt.Sprintf("logs/%02d-%s.txt", i+1, plainName(c.r.text(filepath.Base(file)))), "the end of "+c.r.text(file), c.lines(text), true)
	}
	if c.o.Journal != nil {
		if text, err := c.o.Journal(ctx); err != nil {
			c.miss("system's journal", err)
		} else {
			c.add("logs/journal.txt", "the end of what the system's journal has of lawnberry", c.lines(text), true)
		}
	}
	if len(c.o.Logs) == 0 {
		c.miss("log files", errors.New("lawnberry serve logs to standard error: name the files that it goes to with --log"))
	}
	return nil
}

// lines leaves secrets out of the lines of a log.
func (c *collector) lines(text string) string {
	for _, p := range c.r.patterns {
		if strings.Contains(p.find.String(), "BEGIN") { // it has several lines
			text = c.r.replace(p.rule, p.find, text, p.with)
		}
	}
	if end := c.r.endOfKey.FindStringIndex(text); end != nil { // its beginning is further up than was read
		c.r.count[ruleToken]++
		text = hidden + text[end[1]:]
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(c.r.line(strings.TrimRight(line, "\r\n")))
		b.WriteByte('\n')
	}
	return b.String()
}

// tail returns the last lines of a file, as far as they are within a length.
func tail(path string, most int64) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	from := max(0, info.Size()-most)
	text, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return "", err
	}
	if from > 0 { // half a line may be half a secret, and without the name that tells so
		_, rest, _ := strings.Cut(string(text), "\n")
		return rest, nil
	}
	return string(text), nil
}

// plainName makes a name for a file of any text.
func plainName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), 80)]
}
