// Package identity is who may log in to the broker: the users file, the check of a password, and what slows guessing down.
//
// # The file
//
// users.yaml in the data directory, for its owner's eyes (0600), holds names, roles and argon2id hashes. [Edit] changes it: whole
// or not at all, one writer at a time. A running broker looks at it four times a second and takes in what has stayed the same
// for one look, so a change counts within a second; that works on every file system, and nothing has to be told. A file that cannot be
// read leaves what was there before in force; at a start it is an error.
//
// # What a login costs
//
// One hash at a time is computed, 19 MiB, and a bounded number of logins wait for it, for a bounded time. After a hash that failed
// the next one waits three times as long as it took, so guesses take a quarter of one core at most. A password that was right is
// remembered as a keyed digest, so services that come back cost no hash. A name that nobody has costs the hash of one that exists.
//
// # Guessing
//
// See [Throttle]. What is refused for too many failures is not hashed, whatever the password. All refusals of logins that were not
// looked at are given in batches, 75 a second, so that who guesses in vain waits for it instead of the processor.
package identity

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Admin is the role of who may do everything. Other roles are free text.
const Admin = "admin"

// A User may log in.
type User struct {
	Name string `yaml:"name"`
	Role string `yaml:"role,omitempty"`
	Hash string `yaml:"hash"` // of the password, in PHC string format
	// Mosquitto is what a Mosquitto as the broker checks the password with, in its own format; "" without. It is made with Hash, as both need
	// the password, and easier to guess at, so only where that is the broker.
	Mosquitto string    `yaml:"mosquitto,omitempty"`
	Disabled  bool      `yaml:"disabled,omitempty"`
	Created   time.Time `yaml:"created"`
	Changed   time.Time `yaml:"changed"`
}

// What a login is refused with, beside a *LockedError.
var (
	ErrWrong = errors.New("wrong user name or password") // or a user who is disabled; it is not said which
	ErrBusy  = errors.New("too many logins at once")     // nothing was checked
)

// A LockedError is a login that was not looked at, because there were too many failures before it.
type LockedError struct {
	Wait time.Duration // until the next one is looked at
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("too many failed logins, the next is looked at in %v", e.Wait.Round(time.Second/10))
}

// Limits of what a user may be called and have as a password.
const (
	maxName     = 64   // bytes
	minPassword = 8    // characters
	maxPassword = 1024 // bytes
	maxVerifier = 256  // bytes, of User.Mosquitto
)

// CheckName says why a text cannot be a user's name: it may become a level of a topic.
func CheckName(name string) error { return checkText("user name", name) }

// CheckRole says why a text cannot be a role. "" is none.
func CheckRole(role string) error {
	if role == "" {
		return nil
	}
	return checkText("role", role)
}

func checkText(what, text string) error {
	switch {
	case text == "":
		return fmt.Errorf("%s is empty", what)
	case len(text) > maxName:
		return fmt.Errorf("%s is longer than %d bytes", what, maxName)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s is not UTF-8", what)
	case strings.ContainsAny(text, "/+#") || strings.HasPrefix(text, "$"):
		return fmt.Errorf("%s %q: want one without /, + and #, and no $ at its beginning", what, text)
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s %q: want printable characters", what, text)
		}
	}
	return nil
}

// CheckPassword says why a text cannot be a new password.
func CheckPassword(password string) error {
	switch {
	case utf8.RuneCountInString(password) < minPassword:
		return fmt.Errorf("the password is too short: want %d characters or more", minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("the password is too long: want %d bytes at most", maxPassword)
	case strings.ContainsAny(password, "\r\n\x00"):
		return errors.New("the password has a line break or a zero in it")
	}
	return nil
}
