package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/lawnberry/lawnberry/internal/packet"
)

var (
	ErrClosed       = errors.New("client closed")
	ErrFull         = errors.New("outbox full")
	ErrTooLarge     = errors.New("payload too large")
	ErrNotConnected = errors.New("not connected")
	ErrExpired      = errors.New("expired before it could be sent")
	ErrDropped      = errors.New("dropped from the full outbox")
	ErrNotStored    = errors.New("not stored")
	ErrRateLimited  = errors.New("over the rate limit")
	ErrSuperseded   = errors.New("superseded by a newer value")
	ErrNotSigned    = errors.New("cannot be signed")
	ErrNotEncrypted = errors.New("cannot be encrypted")
)

// ConnectError says why there is no connection to the broker.
type ConnectError struct {
	URL  string // without credentials
	Code byte   // the broker's reason code in CONNACK, 3.1.1 return codes mapped to those of MQTT 5; 0 when it sent none
	Err  error

	ended error // of the context that Connect was given, when that ended the attempts
}

func (e *ConnectError) Error() string {
	s := "connect " + e.URL + ": " + plain(e.Err)
	if hint := e.hint(); hint != "" {
		s += ": " + hint
	}
	return s
}

// Unwrap returns Err and, if that ended Connect's attempts, the error of its context.
func (e *ConnectError) Unwrap() []error {
	errs := make([]error, 0, 2)
	for _, err := range []error{e.Err, e.ended} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Refused reports whether the broker answered and would not have this client.
func (e *ConnectError) Refused() bool { return e.Code >= 0x80 }

// hint says what a person can do about it.
func (e *ConnectError) hint() string {
	var unknownCA x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	switch code := packet.Code(e.Code); {
	case code == packet.BadUserNameOrPassword || code == packet.NotAuthorized:
		return "check user name and password (client.auth)"
	case code == packet.ClientIDNotValid:
		return "choose another client id"
	case e.Code != 0:
		return ""
	case errors.Is(e.Err, syscall.ECONNREFUSED), errors.Is(e.Err, fs.ErrNotExist):
		return `is the broker running? start it with "lawnberry serve"`
	case errors.As(e.Err, &unknownCA):
		return "set the certificate authority of the broker (client.tls.ca_certs)"
	case errors.As(e.Err, &record):
		return "the broker does not speak TLS at this port"
	}
	return tlsHint(e.Err)
}

// permanent reports whether trying again cannot help while the configuration stays as it is.
func (e *ConnectError) permanent() bool {
	switch packet.Code(e.Code) {
	case packet.BadUserNameOrPassword, packet.NotAuthorized, packet.ClientIDNotValid, packet.Banned,
		packet.BadAuthenticationMethod, packet.UnsupportedVersion:
		return true
	}
	var verify *tls.CertificateVerificationError
	var bad *urlError
	return errors.As(e.Err, &verify) || errors.As(e.Err, &bad) || refusedByBroker(e.Err)
}

// plain is err in the words a person expects, without the call that failed.
func plain(err error) string {
	var dns *net.DNSError
	switch {
	case err == nil:
		return "no answer"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host: " + dns.Name
	case errors.Is(err, fs.ErrNotExist):
		return "no such socket"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the other side closed the connection"
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	}
	return err.Error()
}

// refusal is the broker's reason code with its text, as an error.
type refusal struct {
	code packet.Code
	text string // the broker's Reason String or Server Reference, may be ""
}

func (r *refusal) Error() string {
	s := "refused by the broker: " + r.code.String()
	if r.text != "" && !strings.EqualFold(r.text, r.code.String()) {
		s += " (" + printable(r.text) + ")"
	}
	return s
}

// RefusedError is a publication or a subscription that the broker refused.
type RefusedError struct {
	Op    string // "publish" or "subscribe"
	Topic string // or filter
	Code  byte   // the broker's reason code; 0x80 from MQTT 3.1.1, which says no more
	Text  string // what the broker says about it, may be ""
}

func (e *RefusedError) Error() string {
	return e.Op + " " + e.Topic + ": " + (&refusal{packet.Code(e.Code), e.Text}).Error()
}

// DisconnectError is the broker's DISCONNECT, or ours when the broker broke the protocol.
type DisconnectError struct {
	Code byte // reason code
	Text string
	Ours bool // this client ended the connection

	late bool // it was put out by an attempt of its own to connect, which had been on its way for long
}

// TakenOver reports whether another client with the same id has put this one out.
func (e *DisconnectError) TakenOver() bool {
	return packet.Code(e.Code) == packet.SessionTakenOver && !e.Ours && !e.late
}

func (e *DisconnectError) Error() string {
	s := "disconnected by the broker: "
	if e.Ours {
		s = "the broker broke the protocol: "
	}
	s += packet.Code(e.Code).String()
	if e.Text != "" && !strings.EqualFold(e.Text, packet.Code(e.Code).String()) {
		s += " (" + printable(e.Text) + ")"
	}
	switch {
	case e.TakenOver():
		s += ": another client uses the same client id"
	case e.late:
		s += ": an attempt to connect that this client had given up has arrived"
	}
	return s
}

// printable bounds text from the network and takes control characters out of it.
func printable(s string) string {
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Codes of a CommandError.
const (
	CodeNoSuchService  = "no_such_service" // nobody subscribes to the target's command topic
	CodeOffline        = "offline"         // the target is known to be away
	CodeUnknownCommand = "unknown_command"
	CodeBadParameters  = "bad_parameters"
	CodeFailed         = "failed"      // the handler returned an error
	CodeTimeout        = "timeout"     // no answer before the deadline
	CodeCancelled      = "cancelled"   // the caller's context was cancelled
	CodeRefused        = "refused"     // by the broker, or by the target
	CodeInterrupted    = "interrupted" // the target was restarted while it ran: outcome unknown
)

// CommandError is a failed command, with a reason a person can act on.
type CommandError struct {
	Service, Command string
	Code             string // one of the Code constants
	Message          string

	cause error
}

func (e *CommandError) Error() string {
	s := fmt.Sprintf("%s %s: ", e.Service, e.Command)
	if e.Message == "" {
		return s + strings.ReplaceAll(e.Code, "_", " ")
	}
	return s + e.Message
}

// Unwrap returns what is behind e: context.DeadlineExceeded of a timeout, context.Canceled of a cancelled call, a *RefusedError when
// the broker has refused it.
func (e *CommandError) Unwrap() error { return e.cause }
