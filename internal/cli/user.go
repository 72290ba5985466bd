package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lawnberry/lawnberry/broker/mosquitto"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/identity"
)

const userLong = `Users are those who may log in to the broker. They are in users.yaml in the data directory, which only its owner may read,
with argon2id hashes of their passwords, and where broker.engine is mosquitto those that Mosquitto knows as well. As soon as there is one, the broker asks for a login, unless broker.allow_anonymous is true;
programs of its own user or of root on the socket lawnberry.sock need none. A running broker takes changes in within a second.

A password is typed, or the first line of standard input, or in the environment as LAWNBERRY_PASSWORD; never an argument, which
every process of this host can read.`

func (t *tool) userVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "user",
		Short: "Add, list, change and remove who may log in",
		Long:  userLong,
		Example: `  lawnberry user add admin
  lawnberry user add navigation --generate
  lawnberry user ls`,
	}
	asGroup(c)
	c.AddCommand(t.userAdd(), t.userPasswd(), t.userList(), t.userRemove(), t.userDisable(true), t.userDisable(false))
	return c
}

// usesMosquitto reports whether the configuration has Mosquitto for its broker, which needs a hash of its own of each password. A
// configuration that cannot be read is a matter of other verbs.
func (t *tool) usesMosquitto() bool {
	loaded, err := t.load()
	return err == nil && loaded.Config.Broker.Engine == config.EngineMosquitto
}

// hashes returns what the users file keeps of a password; verifier is "" when it is not for Mosquitto, so that none of an older password is left.
func hashes(secret string, forMosquitto bool) (hash, verifier string) {
	if forMosquitto {
		verifier = mosquitto.Verifier(secret)
	}
	return identity.Hash(secret), verifier
}

// A newPassword is how a verb gets one.
type newPassword struct {
	generate bool
	flag     string // not to be used
}

func (p *newPassword) flags(c *cobra.Command) {
	c.Flags().BoolVar(&p.generate, "generate", false, "make a random password and print it, once")
	c.Flags().StringVar(&p.flag, "password", "", "")
	_ = c.Flags().MarkHidden("password") // it is there
}

// errArgument is for who gives a password where others see it. It does not say it again.
var errArgument = usagef("a password is never an argument or a flag, which every process of this host can read: type it when asked, " +
	"or pass it on standard input or as LAWNBERRY_PASSWORD; this one should not be used any more")

// userArguments requires the name, and nothing that may be a password.
func userArguments(c *cobra.Command, args []string) error {
	if len(args) > 1 || c.Flags().Changed("password") {
		return errArgument
	}
	if err := arguments(1, 1, "NAME")(c, args); err != nil {
		return err
	}
	if err := identity.CheckName(args[0]); err != nil {
		return usagef("%w", err)
	}
	return nil
}

// userDone is what the verbs print as JSON.
type userDone struct {
	User     string `json:"user"`
	Result   string `json:"result"`
	Role     string `json:"role,omitempty"`
	Password string `json:"password,omitempty"` // only one that was generated
	File     string `json:"file"`
}

// editUsers changes the users and prints what was done.
func (t *tool) editUsers(done userDone, change func(*identity.Book) error) error {
	dir, err := t.dataDirectory()
	if err != nil {
		return err
	}
	if err := identity.Edit(dir, change); err != nil {
		if errors.Is(err, identity.ErrNoUser) {
			return &failure{exitFailed, err, `"lawnberry user ls" lists them`}
		}
		return err
	}
	done.File = identity.Path(dir)
	if t.json {
		return writeJSON(t.stdout, done)
	}
	fmt.Fprintf(t.stdout, "user %s %s\n", done.User, done.Result)
	if done.Password != "" {
		fmt.Fprintf(t.stdout, "password: %s\nit is shown this once\n", done.Password)
	}
	return nil
}

func (t *tool) userAdd() *cobra.Command {
	var role string
	var password newPassword
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user",
		Long: `add adds a user with a password of 8 characters or more. The role is free text; without --role a user who is called
admin has the role admin, others have none.

` + userLong,
		Example: `  lawnberry user add admin
  lawnberry user add navigation --role service --generate
  pass show mower/phone | lawnberry user add phone`,
		Args: userArguments,
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			if err := identity.CheckRole(role); err != nil {
				return usagef("--role: %w", err)
			}
			if role == "" && name == identity.Admin && !c.Flags().Changed("role") {
				role = identity.Admin
			}
			if dir, err := t.dataDirectory(); err == nil { // before a password is asked for
				if b, err := identity.Load(dir); err == nil && b.Find(name) != nil {
					return &failure{exitFailed, fmt.Errorf("user %s: %w", name, identity.ErrExists), fmt.Sprintf("change the password with \"lawnberry user passwd %s\"", name)}
				}
			}
			forMosquitto := t.usesMosquitto()
			if forMosquitto {
				if err := mosquitto.CheckName(name); err != nil {
					return usagef("%w", err)
				}
			}
			secret, err := t.password(c.Context(), &password)
			if err != nil {
				return err
			}
			done := userDone{User: name, Result: "added", Role: role, Password: shown(&password, secret)}
			hash, verifier := hashes(secret, forMosquitto)
			return t.editUsers(done, func(b *identity.Book) error {
				if err := b.Add(name, role, hash); err != nil {
					return err
				}
				return b.Change(name, func(u *identity.User) { u.Mosquitto = verifier })
			})
		},
	}
	c.Flags().StringVar(&role, "role", "", "`ROLE` of the user, such as admin")
	password.flags(c)
	return c
}

func (t *tool) userPasswd() *cobra.Command {
	var password newPassword
	c := &cobra.Command{
		Use:   "passwd NAME",
		Short: "Change a user's password",
		Long: `passwd gives a user another password. The user's connections are closed, and too many failures before are forgiven.

` + userLong,
		Example: `  lawnberry user passwd admin`,
		Args:    userArguments,
		RunE: func(c *cobra.Command, args []string) error {
			secret, err := t.password(c.Context(), &password)
			if err != nil {
				return err
			}
			done := userDone{User: args[0], Result: "has a new password", Password: shown(&password, secret)}
			hash, verifier := hashes(secret, t.usesMosquitto())
			return t.editUsers(done, func(b *identity.Book) error {
				return b.Change(args[0], func(u *identity.User) { u.Hash, u.Mosquitto = hash, verifier })
			})
		},
	}
	password.flags(c)
	return c
}

func (t *tool) userRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"remove"},
		Short:   "Remove a user",
		Long: `rm removes a user. A running broker closes the user's connections within a second and forgets the user's sessions, with what is
queued for them.`,
		Example: `  lawnberry user rm phone`,
		Args:    userArguments,
		RunE: func(_ *cobra.Command, args []string) error {
			return t.editUsers(userDone{User: args[0], Result: "removed"}, func(b *identity.Book) error { return b.Remove(args[0]) })
		},
	}
}

func (t *tool) userDisable(disable bool) *cobra.Command {
	verb, short, result := "enable", "Let a disabled user log in again", "enabled"
	long := "enable lets a user log in again, with the password as before."
	if disable {
		verb, short, result = "disable", "Keep a user from logging in", "disabled"
		long = "disable keeps a user from logging in. A running broker closes the user's connections within a second; sessions are kept."
	}
	return &cobra.Command{
		Use:     verb + " NAME",
		Short:   short,
		Long:    long,
		Example: "  lawnberry user " + verb + " phone",
		Args:    userArguments,
		RunE: func(_ *cobra.Command, args []string) error {
			return t.editUsers(userDone{User: args[0], Result: result}, func(b *identity.Book) error {
				return b.Change(args[0], func(u *identity.User) { u.Disabled = disable })
			})
		},
	}
}

// A listedUser is a user without the hash.
type listedUser struct {
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	Disabled bool      `json:"disabled"`
	Created  time.Time `json:"created"`
	Changed  time.Time `json:"changed"`
}

func (t *tool) userList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the users",
		Long:    "ls lists the users of the users file. That of broker.auth in the configuration is not among them.",
		Example: "  lawnberry user ls",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			dir, err := t.dataDirectory()
			if err != nil {
				return err
			}
			b, err := identity.Load(dir)
			if err != nil {
				return err
			}
			if t.json {
				users := []listedUser{}
				for _, u := range b.Users {
					users = append(users, listedUser{u.Name, u.Role, u.Disabled, u.Created, u.Changed})
				}
				return writeJSON(t.stdout, struct {
					File  string       `json:"file"`
					Users []listedUser `json:"users"`
				}{identity.Path(dir), users})
			}
			if len(b.Users) == 0 {
				_, err := fmt.Fprintln(t.stdout, "no users")
				return err
			}
			list := table{header: []string{"NAME", "ROLE", "STATE", "CREATED", "CHANGED"}}
			for _, u := range b.Users {
				state := cell{"enabled", green}
				if u.Disabled {
					state = cell{"disabled", yellow}
				}
				role := u.Role
				if role == "" {
					role = "-"
				}
				list.add(text(u.Name), text(role), state, text(u.Created.Local().Format(time.DateTime)), text(u.Changed.Local().Format(time.DateTime)))
			}
			list.write(t.stdout, t.colour(t.stdout))
			return nil
		},
	}
}

// shown returns a password that is to be printed.
func shown(p *newPassword, secret string) string {
	if p.generate {
		return secret
	}
	return ""
}

// password returns a new one: generated, of the environment, typed twice, or the first line of standard input.
func (t *tool) password(ctx context.Context, p *newPassword) (string, error) {
	if p.generate {
		return rand.Text(), nil
	}
	secret := t.getenv("LAWNBERRY_PASSWORD")
	if secret == "" {
		var err error
		if fd, typed := terminal(t.stdin); typed {
			secret, err = t.typedPassword(ctx, fd)
		} else {
			secret, err = firstLine(t.stdin)
		}
		if err != nil {
			return "", err
		}
	}
	if err := identity.CheckPassword(secret); err != nil {
		return "", failf(exitFailed, "%w", err)
	}
	return secret, nil
}

// firstLine reads the first line without its end.
func firstLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("standard input: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", failf(exitFailed, "no password: standard input is empty; type it on a terminal, set LAWNBERRY_PASSWORD, or use --generate")
	}
	return line, nil
}

// typedPassword asks for a password twice, and does not show it.
func (t *tool) typedPassword(ctx context.Context, fd int) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("terminal: %w", err)
	}
	type answer struct {
		text string
		err  error
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(t.stderr, prompt)
		typed := make(chan answer, 1)
		go func() {
			line, err := term.ReadPassword(fd)
			typed <- answer{string(line), err}
		}()
		select {
		case a := <-typed:
			fmt.Fprintln(t.stderr)
			if errors.Is(a.err, io.EOF) {
				a.err = errors.New("no password was typed")
			}
			return a.text, a.err
		case <-ctx.Done(): // the process ends, and with it what still reads
			_ = term.Restore(fd, before)
			fmt.Fprintln(t.stderr)
			return "", context.Cause(ctx)
		}
	}
	first, err := ask("New password: ")
	if err != nil {
		return "", err
	}
	if err := identity.CheckPassword(first); err != nil {
		return "", failf(exitFailed, "%w", err)
	}
	second, err := ask("The same again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", failf(exitFailed, "the two passwords are not the same: nothing was changed")
	}
	return first, nil
}

// settleUsers looks at what the configuration leaves to the users: with some the problem is gone, without it is an error.
func (t *tool) settleUsers(loaded *config.Loaded, problems config.Problems) config.Problems {
	why := loaded.Config.NeedsUsers()
	if why == "" {
		return problems
	}
	dir, err := t.dataDirectory()
	if err != nil {
		return problems
	}
	b, err := identity.Load(dir)
	var settled config.Problems
	for _, p := range problems {
		switch {
		case p.Text != why:
		case err == nil && len(b.Users) > 0:
			continue
		default:
			p.Severity = config.SeverityError
			p.Text += `; there is none: add one with "lawnberry user add admin", or set broker.bind_address to localhost`
			if err != nil {
				p.Text = why + "; " + err.Error()
			}
		}
		settled = append(settled, p)
	}
	return settled
}

// socketOfUsers returns the URL of the broker's socket when there are users and it is there: programs of this user need no login on it.
func (t *tool) socketOfUsers(dir string) string {
	path := config.SocketPath(dir)
	if path == "" {
		return ""
	}
	for _, need := range []string{identity.Path(dir), path} {
		if _, err := os.Stat(need); err != nil {
			return ""
		}
	}
	return "unix://" + path
}
