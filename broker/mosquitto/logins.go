package mosquitto

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"unicode"
)

// Logins are who may come in over the listeners, and what they may do.
type Logins struct {
	Anonymous bool // let in who presents nothing; without Users and Grants everybody, whatever is presented
	Users     []User
	Grants    []Grant // nil lets everyone do everything
}

// open reports whether nobody is asked anything, so that a login that somebody presents all the same is not looked at.
func (l *Logins) open() bool { return l.Anonymous && len(l.Users) == 0 && l.Grants == nil }

// User is one who may log in.
type User struct {
	Name     string
	Verifier string // see [Verifier]
}

// Access is what a Grant is about.
type Access string

// The kinds of access.
const (
	Read      Access = "read"  // receive messages; a subscription is always granted
	Write     Access = "write" // publish
	ReadWrite Access = "readwrite"
	Deny      Access = "deny" // neither: of one user, it goes before all that is allowed
)

// A Grant allows or denies something.
type Grant struct {
	User   string // "" is everyone who is let in
	Access Access
	Filter string // full; for everyone a level %c stands for the client id
}

// iterations of a verifier. Mosquitto is busy with nothing else while it checks one, some 10 ms of a desktop's core: more would let a few logins hold
// up the emergency stop.
const iterations = 10_000

// Verifier returns what Mosquitto keeps of a password: PBKDF2 with SHA-512, in its own format ($7$). It is much easier to guess at than
// argon2id, so passwords should be long.
func Verifier(password string) string {
	salt := make([]byte, 12) // Mosquitto 2.0 takes no other length
	rand.Read(salt)          // never fails
	sum, err := pbkdf2.Key(sha512.New, password, salt, iterations, sha512.Size)
	if err != nil { // only for parameters that are wrong
		panic(err)
	}
	code := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("$7$%d$%s$%s", iterations, code(salt), code(sum))
}

var verifierForm = regexp.MustCompile(`^\$7\$[1-9][0-9]{0,6}\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==$`)

// CheckVerifier says why a text is no verifier. The error does not show it.
func CheckVerifier(text string) error {
	if !verifierForm.MatchString(text) {
		return errors.New("is no password of Mosquitto ($7$...): set it again with lawnberry user passwd")
	}
	return nil
}

// CheckName says why a user's name cannot stand in Mosquitto's files.
func CheckName(name string) error {
	if name == "" || name != strings.TrimSpace(name) || strings.HasPrefix(name, "#") || strings.Contains(name, ":") || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("user %q: Mosquitto takes no name with a colon, with # at its beginning or a space at either end: choose another", name)
	}
	return nil
}

// passwords writes the password file.
func (l *Logins) passwords() (string, error) {
	var t strings.Builder
	for _, u := range l.Users {
		if err := CheckName(u.Name); err != nil {
			return "", err
		}
		if err := CheckVerifier(u.Verifier); err != nil {
			return "", fmt.Errorf("user %s: the password %w", u.Name, err)
		}
		t.WriteString(u.Name + ":" + u.Verifier + "\n")
	}
	return t.String(), nil
}

// acl writes the acl file.
func (l *Logins) acl() (string, error) {
	t := &text{}
	users := map[string][]Grant{}
	var names []string
	for _, g := range l.Grants {
		if g.User == "" {
			t.line("pattern", string(g.Access)+" "+g.Filter)
			continue
		}
		if err := CheckName(g.User); err != nil {
			return "", err
		}
		if strings.Contains(g.Filter, "%c") || strings.Contains(g.Filter, "%u") {
			return "", fmt.Errorf("mosquitto: %q cannot be granted to a single user", g.Filter)
		}
		if users[g.User] == nil {
			names = append(names, g.User)
		}
		users[g.User] = append(users[g.User], g)
	}
	for _, name := range names { // what comes after a user is that user's
		t.WriteString("\n")
		t.line("user", name)
		for _, g := range users[name] {
			t.line("topic", string(g.Access)+" "+g.Filter)
		}
	}
	return t.String(), t.err
}

// writeLogins writes the files that Mosquitto reads again when it is told to. b.reload is held.
func (b *Broker) writeLogins() error {
	b.mu.Lock()
	logins := b.logins
	b.mu.Unlock()
	passwords, err := logins.passwords()
	if err != nil {
		return err
	}
	acl, err := logins.acl()
	if err != nil {
		return err
	}
	return errors.Join(b.writeFile(passwordName, passwords), b.writeFile(aclName, acl))
}

// SetLogins changes who may come in and what they may do, within a second. Mosquitto ends the connections of users who are no more or have
// another password. Where only a start can bring the change about (when anonymous clients are let in or not any more, when the first user comes or the last
// one goes, and when there were no Grants or are none now), it is started again. An error has changed nothing.
func (b *Broker) SetLogins(l Logins) error {
	b.reload.Lock()
	defer b.reload.Unlock()
	b.mu.Lock()
	before := b.logins
	b.logins = l
	b.edits++
	b.mu.Unlock()
	if err := b.writeLogins(); err != nil {
		b.mu.Lock()
		b.logins = before
		b.mu.Unlock()
		return errors.Join(err, b.writeLogins())
	}
	if l.Anonymous != before.Anonymous || l.open() != before.open() || (l.Grants == nil) != (before.Grants == nil) {
		b.startAgain("who may come in has changed")
		return nil
	}
	return b.Reload()
}

// limits are those of Options that may change while it runs.
type limits struct{ connections, queued, queuedBytes int }

// SetLimits changes how many clients each address takes and what may wait for one of them, as Options have it. Mosquitto is started again when that is
// something else than before.
func (b *Broker) SetLimits(maxConnections, maxQueued, maxQueuedBytes int) {
	l := limits{maxConnections, maxQueued, maxQueuedBytes}
	b.mu.Lock()
	changed := l != b.limits
	b.limits = l
	b.mu.Unlock()
	if changed {
		b.startAgain("its limits have changed")
	}
}

// startAgain has it end and come again.
func (b *Broker) startAgain(why string) {
	select {
	case b.again <- why:
	default: // it is about to
	}
}

// SetLogLevel has Mosquitto log what Options.Logger takes by now.
func (b *Broker) SetLogLevel() error {
	b.reload.Lock()
	defer b.reload.Unlock()
	b.mu.Lock()
	b.edits++
	p := b.proc
	b.mu.Unlock()
	if p == nil { // the next one asks the log
		return nil
	}
	if _, err := b.writeConfig(); err != nil {
		return err
	}
	if err := b.remember(p.pid()); err != nil {
		return err
	}
	return b.Reload()
}

// edited reports whether what Mosquitto reads has changed since an edit.
func (b *Broker) edited(edit uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.edits != edit
}

// Reload has Mosquitto read its logins and certificates again.
func (b *Broker) Reload() error {
	b.mu.Lock()
	p := b.proc
	b.mu.Unlock()
	if p == nil { // the next one reads them anyway
		return nil
	}
	if err := p.signal(reloadSignal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("mosquitto: reload: %w", err)
	}
	return nil
}
