package doctor

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// A Kind is one thing that an examination may find. The kinds are a part of what programs may rely on: none changes its meaning.
type Kind struct {
	ID       string
	Check    string // what is looked at
	Severity Severity
	Means    string // what was found, in general
	Why      string // it matters
	// Command is what repairs it, or shows what to repair. What is in braces stands for a value of the finding.
	Command string
	Advice  string // what else there is to know for repairing it; may be ""
}

// kinds returns the table of all kinds, in the order in which things are looked at.
func kinds() []Kind {
	return slices.Concat(fileKinds(), fleetKinds(), brokerKinds(), serviceKinds(), trafficKinds())
}

// Kinds yields all that may be found.
func Kinds() iter.Seq[Kind] { return slices.Values(kinds()) }

func fileKinds() []Kind {
	return []Kind{
		{"config-unreadable", "configuration", Error, "the configuration file cannot be read",
			"programs that are told to use it do not start; the defaults were taken here",
			"lawnberry config check {file}", "lawnberry config init writes one to start from"},
		{"config-error", "configuration", Error, "the configuration cannot be used", "programs that need it do not start; the key's default was taken here",
			"lawnberry config check {file}", ""},
		{"config-warning", "configuration", Warning, "a key does not do what it says", "it does nothing, or something else than was meant",
			"lawnberry config check {file}", ""},
		{"config-unknown-key", "configuration", Warning, "a key or variable that this version does not know",
			"it is misspelt, or of a newer version of the program: it does nothing", "lawnberry config check {file}",
			"lawnberry version shows which version this is"},
		{"key-file", "configuration", Error, "a key file of signing or encryption cannot be used", "programs that sign or encrypt do not start",
			"lawnberry key ls --file {file}", ""},
		{"certificate-unreadable", "certificates", Error, "a certificate cannot be read", "nobody can connect with it", "lawnberry cert ls", ""},
		{"certificate-expired", "certificates", Error, "a certificate has expired", "nobody connects with it any more", "lawnberry cert renew --due", ""},
		{"certificate-expiring", "certificates", Warning, "a certificate expires within 28 days", "nobody connects with it after that",
			"lawnberry cert renew --due", ""},
		{"secret-open", "permissions", Error, "others may read or change a file that is a secret",
			"whoever reads it can be what it is for; a users file or a key file that others may read is refused", "chmod 600 {file}", ""},
		{"config-open", "permissions", Warning, "everybody may read, or the group may change, a configuration file with a password in it",
			"whoever reads it can log in", "chmod 640 {file}", "better: take the password from the environment, as MQTT_PASSWORD"},
		{"directory-open", "permissions", Error, "others may change the data directory",
			"they can put files in the place of those with users, keys and the emergency stop's state",
			"chmod go-w {dir}", ""},
		{"secret-unknown", "permissions", Warning, "whether others may read a file is not known", "it is a secret", "sudo lawnberry doctor",
			"or run it as the user of lawnberry serve"},
		{"users-unusable", "users", Error, "the users file cannot be used", "nobody can log in", "lawnberry user ls", ""},
		{"disk-full", "disk", Error, "less than 50 MB are free for the data directory", "the broker refuses messages that it cannot store",
			"df -h {dir}", "make room"},
		{"disk-low", "disk", Warning, "less is free for the data directory than --min-free",
			"the broker refuses messages that it cannot store, once nothing is free",
			"df -h {dir}", "make room"},
		{"disk-unwritable", "disk", Error, "nothing can be written to the data directory",
			"nothing can be kept there: sessions, retained messages, the emergency stop's state",
			"ls -ld {dir}", "make it writable for the user of lawnberry serve, or choose another with --data-dir"},
		{"disk-slow", "disk", Warning, "a small write takes longer than --slow-sync until it is durable", "what has to be stored is acknowledged only then",
			"lawnberry config explain broker.persistence_sync", "use a faster disk, or set that to {interval: 1s}"},
		{"disk-new", "disk", Note, "there is no data directory yet", "nothing was measured", "lawnberry serve", "it makes the directory"},
	}
}

func brokerKinds() []Kind {
	const user = "give NAME and PASSWORD of a user who may"
	return []Kind{
		{"broker-unreachable", "broker", Error, "nobody answers as a broker", "no service can talk to another", "lawnberry serve", ""},
		{"broker-refuses", "broker", Error, "the broker does not let doctor in", "what is on the bus cannot be seen",
			"lawnberry doctor --broker tcp://NAME:PASSWORD@HOST:PORT", "or set client.auth"},
		{"broker-unknown", "broker", Error, "how to connect to the broker is not known", "nothing that uses the configuration can connect",
			"lawnberry config check {file}", ""},
		{"broker-deaf", "broker", Error, "doctor may not listen to the bus", "what is on the bus cannot be seen",
			"lawnberry doctor --broker tcp://NAME:PASSWORD@HOST:PORT", user},
		{"broker-lacks", "broker", Note, "the broker lacks something, or does it differently", "", "lawnberry config explain broker.engine",
			"docs/mosquitto.md says what each kind of broker has"},
		{"broker-unusable", "broker", Error, "the broker lacks what this system needs", "", "lawnberry config explain broker.engine",
			"set it to embedded, or use another broker"},
		{"broker-silent", "broker", Note, "the broker says nothing of itself under $SYS", "losses and queues were not looked at",
			"lawnberry doctor --broker tcp://NAME:PASSWORD@HOST:PORT", user},
		{"port-taken", "ports", Error, "another process has a port that lawnberry serve is to listen on", "lawnberry serve cannot listen there",
			"lawnberry config explain {key}", "stop that process, or set the key to another port"},
		{"round-trip-slow", "round trip", Warning, "a round trip at QoS 2 takes as if the broker sent without TCP_NODELAY",
			"every command takes so long: the broker waits with what it sends for the other side's acknowledgement, as Mosquitto does by itself",
			"lawnberry config explain broker.engine",
			`set it to embedded or mosquitto, or write "set_tcp_nodelay true" into the mosquitto.conf of that broker`},
		{"round-trip-lost", "round trip", Error, "a message did not come back", "commands and responses do not arrive", "lawnberry serve --log-level debug",
			"its log shows what the broker does"},
		{"round-trip-unknown", "round trip", Note, "the round trip was not measured", "how fast the broker is is not known",
			"lawnberry doctor --broker tcp://NAME:PASSWORD@HOST:PORT", user},
		{"stop-unknown", "emergency stop", Error, "the state of the emergency stop is not known", "that counts as engaged: nothing moves",
			"lawnberry config explain safety.emergency_stop.enabled", "lawnberry serve keeps it, unless that is false and another process does"},
		{"stop-engaged", "emergency stop", Warning, "the emergency stop is engaged, and nothing stands against releasing it", "nothing moves",
			"lawnberry estop release --sequence {sequence}", ""},
		{"stop-held", "emergency stop", Warning, "the emergency stop is engaged, and something stands against releasing it", "nothing moves",
			"lawnberry estop status", ""},
		{"stop-unconfirmed", "emergency stop", Error, "somebody who moves something has not confirmed the emergency stop", "it may be moving",
			"lawnberry estop status", "look at the mower, and cut its power if it moves"},
	}
}

func serviceKinds() []Kind {
	return []Kind{
		{"service-dead", "services", Error, "a retained status says that a service runs, and it does not answer", "who comes new takes it for alive",
			"lawnberry topic clear system/services/{id}/status", "or start it again"},
		{"service-silent", "services", Warning, "a service that was there a moment ago does not answer",
			"it hangs, or its computer cannot be reached; the others wait for it",
			"lawnberry service ping {id}", ""},
		{"service-unable", "services", Warning, "a service says that it is degraded or has an error", "it does not do all that it should",
			"lawnberry service info {id}", ""},
		{"service-mute", "services", Warning, "a service announces itself and does not answer the command status",
			"it does not carry out commands, or has too many",
			"lawnberry service ping {id}", ""},
		{"service-twice", "services", Error, "several processes have one id", "each answers the commands of the other, or puts it out of the broker",
			"lawnberry service info {id}", "it shows host and process: stop one of them, or give it another id"},
		{"service-missing", "services", Warning, "a service of service_definitions does not run", "what it does is not done",
			"lawnberry service wait {id}", "start it, or remove it from service_definitions"},
		{"service-undefined", "services", Note, "a service is not in service_definitions",
			"with access control it has no rights, and nobody misses it when it is gone",
			"lawnberry config explain service_definitions", ""},
		{"dependency-missing", "dependencies", Error, "what a running service needs does not run", "who needs it waits or works with restrictions",
			"lawnberry service graph", "it shows who waits for whom: start what is missing"},
		{"clock-wrong", "clocks", Warning, "the clock of a service differs by more than 2 s from the one here",
			"what it sends is taken for old or signed wrongly, and its deadlines are off", "timedatectl set-ntp true", "on the computer that is wrong"},
	}
}

func trafficKinds() []Kind {
	return []Kind{
		{"topic-undefined", "topics", Warning, "something is published on a topic that nobody defined", "it has no QoS, rate or class",
			"lawnberry topic ls", "its name may be misspelt"},
		{"topic-not-allowed", "topics", Warning, "something is published that no rule allows its sender", "a broker that goes by the rules refuses it",
			"lawnberry acl test {id} publish {topic}", "give the right in service_definitions or in security.access_control.rules"},
		{"definition-not-allowed", "topics", Warning, "a rule denies a service what its definition has it publish", "what it says is refused",
			"lawnberry acl test {id} publish {topic}", "change the rule, or the definition"},
		{"rate-exceeded", "rates", Warning, "a service was over the rate of a topic", "what it wanted to say is lost",
			"lawnberry config explain topics.rate_limits", "let it publish less often, or raise the limit"},
		{"broker-dropped", "losses", Warning, "the broker has lost messages at a bound", "some subscriber is too slow, or was away for too long",
			"lawnberry service ls", "look for one that hangs; broker.max_queued_messages is the bound"},
		{"session-dropped", "losses", Warning, "a session has lost messages at a bound", "it misses what it should know",
			"lawnberry config explain broker.max_queued_messages", "make it faster, let it subscribe to less, or raise the bound"},
		{"service-dropped", "losses", Warning, "a service has lost messages at a bound of its own", "it is too slow, or was without a broker for too long",
			"lawnberry call {id} status", ""},
		{"queue-long", "queues", Warning, "more than half as many messages wait in the broker as one session may have",
			"a session loses messages when its queue is full",
			"lawnberry service ls", "look for one that hangs or is away"},
		{"queue-growing", "queues", Warning, "while doctor listened more and more messages waited in the broker",
			"a session loses messages when its queue is full",
			"lawnberry service ls", "look for one that hangs or is away; doctor --listen 30s shows whether it goes on"},
		{"outbox-long", "queues", Warning, "messages wait in a service for the broker to take them", "what it says is late",
			"lawnberry call {id} status", ""},
		{"messages-rejected", "messages", Warning, "a service has rejected messages that break a rule", "somebody sends what others cannot read",
			"lawnberry call {id} status", "the log of the service names them"},
		{"rights-denied", "rights", Warning, "the broker has refused what somebody has no right to", "a service may lack a right, or somebody tries",
			"lawnberry acl ls", "the log of lawnberry serve names them; what doctor itself tried counts too"},
		{"store-failing", "disk", Error, "the broker could not store something", "messages were refused", "df -h {dir}",
			"and see the log of lawnberry serve"},
	}
}

// find adds a finding of a kind. values are pairs of what is in braces in the kind's command, without the braces, and what it stands for.
func (x *examination) find(id, what string, values ...string) *Finding {
	i := slices.IndexFunc(x.kinds, func(k Kind) bool { return k.ID == id })
	if i < 0 {
		panic(fmt.Sprintf("doctor: there is no kind %s", id)) // a mistake of this package, which every test of the finding shows
	}
	k := x.kinds[i]
	f := Finding{ID: k.ID, Severity: k.Severity, Check: k.Check, What: what, Why: k.Why, Command: k.command(values...)}
	f.Fix = f.Command
	if k.Advice != "" {
		f.Fix += "; " + k.Advice
	}
	x.report.Findings = append(x.report.Findings, f)
	return &x.report.Findings[len(x.report.Findings)-1]
}

// command puts values, as find takes them, into the kind's command. They are quoted for a shell: some are said by strangers.
func (k Kind) command(values ...string) string {
	var all []string
	for i := 0; i+1 < len(values); i += 2 {
		all = append(all, "{"+values[i]+"}", shellWord(values[i+1]))
	}
	return strings.TrimSpace(strings.NewReplacer(all...).Replace(k.Command))
}

// Example returns the command of a finding of this kind, with words in the place of values.
func (k Kind) Example() string {
	return k.command("file", "FILE", "dir", "DIR", "id", "SERVICE", "topic", "TOPIC", "key", "broker.port", "sequence", "7")
}

// shellWord returns s as one word of a shell's command line, without what could move a cursor; "" stays as it is.
func shellWord(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%+=,", r)
	}
	if !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
