package config

import (
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/lawnberry/lawnberry/topic"
	"github.com/lawnberry/lawnberry/tracing"
)

// Check applies the rules between keys: what one value makes of another. Its problems name the key but no place; Load calls it
// and adds the places. A program that changed a configuration after Load calls it again.
func (c *Config) Check() Problems {
	var ps Problems
	report := func(sev Severity, key, text string) {
		ps = append(ps, Problem{Severity: sev, Key: key, Text: text})
	}
	c.checkEngine(report)
	c.checkBroker(report)
	c.checkClient(report)
	c.checkSealing(report)
	if l := c.Integration.CloudLogging; l.Enabled && l.Endpoint == "" {
		report(SeverityError, "integration.cloud_logging.endpoint", "integration.cloud_logging.enabled needs a URL to post to")
	}
	if c.Monitoring.Metrics.Enabled && !c.Integration.WebSocketBridge.Enabled {
		report(SeverityWarning, "monitoring.metrics.enabled", "nothing serves the figures: that needs integration.websocket_bridge.enabled")
	}
	switch simulated := c.Development.Debug.SimulateFailures || c.Development.Debug.LatencySimulation > 0; {
	case simulated && c.Broker.Engine != EngineEmbedded:
		report(SeverityWarning, "development.debug", "no bad network is simulated: that needs broker.engine embedded")
	case simulated:
		report(SeverityWarning, "development.debug", "a bad network is simulated: not for a mower that moves")
	}
	c.checkHomeAssistant(report)
	c.checkFleet(report)
	if c.Services.HeartbeatTimeout <= c.Services.HeartbeatInterval {
		report(SeverityError, "services.heartbeat_timeout", "must be longer than services.heartbeat_interval, or every service would be taken for offline")
	}
	_, problems := c.registry()
	if problems.Err() == nil {
		_, more := c.accessRules()
		problems = append(problems, more...)
	}
	ps = append(ps, problems...)
	return append(ps, c.checkDefinitions()...)
}

// checkEngine sees whether there is what the engine needs.
func (c *Config) checkEngine(report func(sev Severity, key, text string)) {
	b := &c.Broker
	external := b.Engine == EngineExternal
	switch {
	case external && len(b.External.URLs) == 0 && c.Client.BrokerHost == "" && c.Client.BrokerPort == 0:
		report(SeverityError, "broker.external.urls", "broker.engine is external, and nothing says where the broker is")
	case !external && len(b.External.URLs) > 0:
		report(SeverityWarning, "broker.external.urls", "is not used, since broker.engine is "+b.Engine)
	case external && len(b.External.URLs) > 0 && c.Client.BrokerHost != "":
		report(SeverityWarning, "client.broker_host", "is not used, since broker.external.urls says where the broker is")
	}
	for _, path := range c.unusedByEngine() {
		if c.given(path) {
			report(SeverityWarning, path, "is not used, since broker.engine is "+b.Engine)
		}
	}
	if b.Engine != EngineMosquitto && b.Mosquitto.Binary != "" {
		report(SeverityWarning, "broker.mosquitto.binary", "is not used, since broker.engine is "+b.Engine)
	}
}

// unusedByEngine are the keys that only another engine goes by.
func (c *Config) unusedByEngine() []string {
	switch c.Broker.Engine {
	case EngineMosquitto:
		return []string{"broker.keepalive", "broker.persistence_sync", "broker.socket_group", "broker.websockets.hosts", "broker.websockets.origins", "monitoring.logging.log_performance"}
	case EngineExternal: // the bridge for browsers has the bind address and the certificates; without URLs the port is where the broker is
		unused := []string{
			"broker.keepalive", "broker.max_connections", "broker.persistence", "broker.persistence_location", "broker.persistence_sync", "broker.max_queued_messages",
			"broker.max_queued_bytes", "broker.max_packet_size", "broker.socket_group", "broker.log_level", "broker.auth.enabled", "broker.auth.username", "broker.auth.password",
			"broker.websockets.enabled", "broker.websockets.port", "broker.websockets.hosts", "broker.websockets.origins", "monitoring.logging.log_performance",
		}
		if len(c.Broker.External.URLs) > 0 {
			unused = append(unused, "broker.port")
		}
		return unused
	}
	return nil
}

// checkGroup says why text cannot name a group of the system. The empty text passes.
func checkGroup(text string) string {
	if len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) || strings.ContainsAny(text, ":/,") {
		return quote(text) + " cannot be the name of a group"
	}
	return ""
}

// checkProgram says why text cannot name a program. The empty text passes.
func checkProgram(text string) string {
	if strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, "/") && !filepath.IsAbs(text) {
		return quote(text) + " is neither an absolute path nor a name without one"
	}
	return ""
}

// checkBrokerURL says why text is no address of a broker. A login is not shown, and not taken.
func checkBrokerURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "no URL, want one such as tcp://192.168.1.7:1883"
	case u.User != nil:
		return "it has a login in it, which would be shown: set client.auth instead"
	case !slices.Contains([]string{"tcp", "mqtt", "ssl", "tls", "mqtts", "ws", "wss"}, u.Scheme):
		return quote(text) + " does not begin with tcp://, ssl://, ws:// or wss://"
	case u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && !strings.HasPrefix(u.Scheme, "ws"):
		return quote(text) + " is no address of a broker, want one such as tcp://192.168.1.7:1883"
	}
	return ""
}

func (c *Config) checkBroker(report func(sev Severity, key, text string)) {
	b := &c.Broker
	if b.Auth.Enabled {
		if b.Auth.Username == "" {
			report(SeverityError, "broker.auth.username", "broker.auth.enabled needs a user name")
		}
		if b.Auth.Password == "" {
			report(SeverityError, "broker.auth.password", "broker.auth.enabled needs a password: set it in the environment as MQTT_PASSWORD")
		}
	}
	if why := c.NeedsUsers(); why != "" {
		key := "broker.bind_address"
		if b.AllowAnonymous != nil {
			key = "broker.allow_anonymous"
		}
		report(SeverityWarning, key, why)
	}
	if b.TLS.Enabled {
		if b.TLS.CertFile == "" {
			report(SeverityError, "broker.tls.cert_file", "broker.tls.enabled needs a certificate")
		}
		if b.TLS.KeyFile == "" {
			report(SeverityError, "broker.tls.key_file", "broker.tls.enabled needs the certificate's private key")
		}
		if b.TLS.RequireCertificate && b.TLS.CAFile == "" {
			report(SeverityError, "broker.tls.require_certificate", "needs broker.tls.ca_file, which says who may sign clients' certificates")
		}
		if b.TLS.CRLFile != "" && b.TLS.CAFile == "" {
			report(SeverityError, "broker.tls.crl_file", "needs broker.tls.ca_file, which has to have signed it")
		}
	} else if b.TLS.RequireCertificate {
		report(SeverityError, "broker.tls.require_certificate", "needs broker.tls.enabled")
	}
	if b.WebSockets.Enabled && b.WebSockets.Port == b.Port && b.Port != 0 {
		report(SeverityError, "broker.websockets.port", "is broker.port too: each needs a port of its own")
	}
	if !isLoopback(b.BindAddress) && b.AllowAnonymous != nil && *b.AllowAnonymous {
		report(SeverityWarning, "broker.allow_anonymous", "everyone who reaches "+quote(b.BindAddress)+" can steer the mower without a login")
	}
}

// NeedsUsers says why the broker must not start unless there is a user beside those of the configuration, "" when it may. Users are
// added with the command lawnberry user add, and not known here: Check makes a warning of it, [Config.BrokerOptions] an error.
func (c *Config) NeedsUsers() string {
	b := &c.Broker
	switch {
	case b.Engine == EngineExternal || b.Auth.Enabled || b.AllowAnonymous != nil && *b.AllowAnonymous:
		return ""
	case b.AllowAnonymous != nil:
		return "broker.allow_anonymous is false, so the broker starts only when somebody can log in: a user, or broker.auth"
	case !isLoopback(b.BindAddress) && !(b.TLS.Enabled && b.TLS.RequireCertificate):
		return "broker.bind_address " + quote(b.BindAddress) + " lets the network in, so the broker starts only when it can ask for a login: " +
			"with a user, or broker.auth"
	}
	return ""
}

func (c *Config) checkClient(report func(sev Severity, key, text string)) {
	cl := &c.Client
	if cl.Auth.Enabled && cl.Auth.Username == "" {
		report(SeverityError, "client.auth.username", "client.auth.enabled needs a user name")
	}
	if cl.MaxReconnectDelay < cl.ReconnectDelay {
		report(SeverityError, "client.max_reconnect_delay", "is shorter than client.reconnect_delay")
	}
	if (cl.TLS.CertFile == "") != (cl.TLS.KeyFile == "") {
		key := "client.tls.certfile"
		if cl.TLS.KeyFile == "" {
			key = "client.tls.keyfile"
		}
		report(SeverityError, key, "client.tls.certfile and client.tls.keyfile belong together: one is missing")
	}
}

// checkDefinitions finds dependencies that are not defined, which may run all the same, and circles, which cannot start.
func (c *Config) checkDefinitions() Problems {
	var ps Problems
	ids := sortedKeys(c.ServiceDefinitions)
	for _, id := range ids {
		if len(ps) > maxProblems {
			break
		}
		for _, dep := range c.ServiceDefinitions[id].Dependencies {
			if _, ok := c.ServiceDefinitions[dep]; !ok {
				ps = append(ps, Problem{
					Severity: SeverityWarning, Key: "service_definitions." + id, Nearest: nearest(dep, slices.Values(ids)),
					Text: "depends on " + quote(dep) + ", which is not defined here",
				})
			}
		}
	}
	if circle := c.dependencyCircle(ids); circle != nil {
		ps = append(ps, Problem{
			Severity: SeverityError, Key: "service_definitions." + circle[0],
			Text: "the dependencies go in a circle, none of these can start: " + strings.Join(circle, " -> "),
		})
	}
	return ps
}

// dependencyCircle returns services each of which depends on the next, the first being the last too, and nil without one.
func (c *Config) dependencyCircle(ids []string) []string {
	const visiting, done = 1, 2
	state := map[string]int{}
	var path, circle []string
	var visit func(id string) bool
	visit = func(id string) bool {
		switch state[id] {
		case visiting:
			circle = append(slices.Clone(path[slices.Index(path, id):]), id)
			return true
		case done:
			return false
		}
		state[id] = visiting
		path = append(path, id)
		if slices.ContainsFunc(c.ServiceDefinitions[id].Dependencies, visit) {
			return true
		}
		path = path[:len(path)-1]
		state[id] = done
		return false
	}
	for _, id := range ids {
		if visit(id) {
			break
		}
	}
	return circle
}

// isLoopback reports whether only this host can reach the address.
func isLoopback(host string) bool {
	if isLocalhost(host) {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// isLocalhost reports whether host is the name of this host's loopback addresses [RFC 6761].
func isLocalhost(host string) bool {
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

func checkBind(text string) string {
	if text == "" {
		return "empty, want a host name or address; every address is 0.0.0.0 or ::"
	}
	return checkHost(text)
}

// checkOrigin says why text is no origin of a web page.
func checkOrigin(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != text {
		return quote(text) + " is no origin: want scheme and host, such as https://mower.example or http://192.168.1.7:8080"
	}
	return ""
}

// checkEndpoint says what is wrong with a URL to post to.
func checkEndpoint(text string) string {
	const example = "want one such as https://logs.example/lawnberry"
	switch u, err := url.Parse(text); {
	case text == "":
	case err != nil: // there may be a password in it
		return "no URL to post to, " + example
	case u.User != nil:
		return "it has a login in it, which would be shown: set integration.cloud_logging.token instead"
	case u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return quote(text) + " is no URL to post to, " + example
	}
	return ""
}

// checkCollector says what is wrong with the URL of a collector.
func checkCollector(text string) string {
	if _, err := tracing.CheckEndpoint(text); err != nil { // there may be a password in it
		return "no URL of a collector: " + err.Error()
	}
	return ""
}

// checkMock says what is wrong with the id of a service to simulate.
func checkMock(id string) string {
	if err := topic.CheckLevel("service", id); err != nil {
		return err.Error()
	}
	if slices.Contains([]string{"emergency_stop", "web_bridge", "home_assistant", "fleet"}, id) {
		return quote(id) + " is a part of serve, which is not simulated"
	}
	return ""
}

// checkHost says why text is neither a host name nor an address. The empty text passes.
func checkHost(text string) string {
	if text == "" {
		return ""
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return ""
	}
	if _, err := netip.ParseAddrPort(text); err == nil {
		return quote(text) + " has a port, which has a key of its own"
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(text, "."), ".") {
		wrong := func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '_'
		}
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, wrong) {
			return quote(text) + " is neither a host name nor an address"
		}
	}
	if digits := strings.Trim(text, "0123456789."); digits == "" {
		return quote(text) + " is neither a host name nor an address"
	}
	return ""
}

func checkClientID(text string) string {
	if text == "" {
		return ""
	}
	if err := topic.CheckLevel("client id", text); err != nil { // it is a level of responses/{id}
		return err.Error()
	}
	return ""
}

// checkServiceID says why text cannot be a service's id or type, which is a level of topics.
func checkServiceID(text string) string {
	if err := topic.CheckLevel("service", text); err != nil {
		return err.Error()
	}
	return ""
}

func checkNamespace(text string) string {
	if text == "" {
		return "empty, want levels such as lawnberry or garden/mower"
	}
	if _, err := topic.New(text); err != nil {
		return err.Error()
	}
	return ""
}

func checkFilter(text string) string {
	if err := topic.CheckFilter(text); err != nil {
		return err.Error()
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
