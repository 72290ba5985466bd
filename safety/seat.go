package safety

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// SeatOptions configure a seat.
type SeatOptions struct {
	Lease time.Duration // how long a driver may be silent; 0 is 1 s
}

// A Seat is the place of whoever drives a machine: there is one driver at a time, who has a lease and renews it. When that is lost the
// guard's permit is lost, and when the permit is lost so is the lease: whoever wants to move the machine again has to take it anew.
//
// It answers commands to its service:
//
//	take_control   gives the caller the lease and its token, and arms the guard, unless somebody else drives or something stands against it
//	keep_control   renews the lease of a token
//	leave_control  gives it back; the machine stops
//	stop           takes it from whoever has it; the machine stops. Anybody may
//
// Commands and set points that move the machine carry the token; see Admit. The methods may be called concurrently.
type Seat struct {
	g     *Guard
	lease time.Duration
	name  string // of the service
	c     *condition

	taking sync.Mutex // held by take_control

	mu     sync.Mutex // guards the fields below; taken with the guard's lock held, never the other way round
	driver string     // "" when nobody drives
	token  string
	ended  string // why the last driver does not drive any more
}

const (
	driverLease = time.Second

	commandTake  = "take_control"
	commandKeep  = "keep_control"
	commandLeave = "leave_control"
	commandStop  = "stop"
)

type (
	takeAnswer struct {
		Token string  `json:"token" doc:"what commands and set points of this driver carry"`
		Lease float64 `json:"lease" doc:"how long the driver may be silent, s"`
	}
	tokenQuery struct {
		Token string `json:"token" doc:"of the lease; it must be given"`
	}
	stopQuery struct {
		Reason string `json:"reason" doc:"what for"`
	}
	stopAnswer struct {
		Driver string `json:"driver" doc:"who drove until now; empty if nobody did"`
	}
)

func (q tokenQuery) Validate() error {
	if q.Token == "" {
		return errors.New("parameters.token is missing: it is what take_control has answered")
	}
	return nil
}

const nobodyDrives = "nobody drives"

// NewSeat makes a guard depend on a driver. Call it in Options.Setup of the guard's service.
func NewSeat(g *Guard, o SeatOptions) *Seat {
	s := &Seat{g: g, lease: o.Lease, name: g.svc.ID(), ended: nobodyDrives}
	if s.lease <= 0 {
		s.lease = driverLease
	}
	s.c = g.add(&condition{what: "the driver is silent", within: s.lease, bad: nobodyDrives})
	g.mu.Lock()
	g.onLoss = append(g.onLoss, s.vacate)
	g.mu.Unlock()
	service.Handle(g.svc, commandTake, func(ctx context.Context, _ struct{}) (takeAnswer, error) { return s.take(ctx, service.Caller(ctx)) },
		service.Description("Gives the caller control of the machine, if nobody else has it and nothing stands against moving."))
	service.Handle(g.svc, commandKeep, func(ctx context.Context, q tokenQuery) (struct{}, error) {
		return struct{}{}, s.keep(service.Caller(ctx), q.Token)
	}, service.Repeatable(), service.Description("Renews control of the machine."))
	service.Handle(g.svc, commandLeave, func(ctx context.Context, q tokenQuery) (struct{}, error) {
		return struct{}{}, s.leave(service.Caller(ctx), q.Token)
	}, service.Repeatable(), service.Description("Gives control of the machine back. It stops."))
	service.Handle(g.svc, commandStop, func(ctx context.Context, q stopQuery) (stopAnswer, error) {
		was := s.Driver()
		why := "stopped by " + speakable(service.Caller(ctx))
		if q.Reason != "" {
			why += ": " + speakable(q.Reason)
		}
		g.Disarm(why)
		return stopAnswer{was}, nil
	}, service.Repeatable(), service.Description("Stops the machine, and takes control of it from whoever has it."))
	return s
}

// Driver returns who drives, "" if nobody does.
func (s *Seat) Driver() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.driver
}

// Admit returns nil if a set point or command with that sender and token comes from who drives, and the machine may move; otherwise why not.
func (s *Seat) Admit(sender, token string) error {
	s.mu.Lock()
	driver, current, ended := s.driver, s.token, s.ended
	s.mu.Unlock()
	switch {
	case driver == "":
		return fmt.Errorf("%s does not drive: %s", name(sender), ended)
	case sender != driver:
		return fmt.Errorf("%s does not drive: %s does", name(sender), driver)
	case token != current:
		return fmt.Errorf("%s has not the token of the present lease", name(sender))
	case !s.g.Permit():
		return errors.New("not permitted")
	}
	return nil
}

func name(sender string) string {
	if sender == "" {
		return "a program without a name"
	}
	return sender
}

func (s *Seat) refuse(command, text string) error {
	return &client.CommandError{Service: s.name, Command: command, Code: client.CodeRefused, Message: text}
}

func (s *Seat) take(ctx context.Context, caller string) (takeAnswer, error) {
	if caller == "" {
		return takeAnswer{}, s.refuse(commandTake, "a driver needs a name: send the command with an envelope that has a sender")
	}
	asked := s.g.disarms()
	s.taking.Lock()
	defer s.taking.Unlock()
	driver := s.Driver()
	if driver != "" && driver != caller && s.g.Permit() {
		return takeAnswer{}, s.refuse(commandTake, driver+" drives: it has to leave control first, or be stopped")
	}
	token := rand.Text()
	disarmed, err := s.seat(caller, token, asked)
	if err == nil {
		err = s.g.arm(ctx, disarmed)
	}
	if err != nil {
		s.vacateAnd(nobodyDrives)
		return takeAnswer{}, s.refuse(commandTake, err.Error())
	}
	if err := s.keep(caller, token); err != nil {
		return takeAnswer{}, s.refuse(commandTake, err.Error())
	}
	return takeAnswer{token, s.lease.Seconds()}, nil
}

// seat makes caller the driver, unless the machine was stopped since that was asked for. It returns how often it was.
func (s *Seat) seat(caller, token string, asked uint64) (disarmed uint64, err error) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	if s.g.disarmed != asked {
		return 0, &BlockedError{[]string{s.g.disarmedBy}}
	}
	s.g.disarmLocked("control is given to " + caller) // also if it had it before: that token is worth nothing any more
	s.mu.Lock()
	s.driver, s.token = caller, token
	s.mu.Unlock()
	s.g.hearLocked(s.c, time.Now(), "", s.lease+armTime) // it waits for us meanwhile
	s.c.again = false                                    // it is no stream of messages
	return s.g.disarmed, nil
}

// vacate is called by the guard, with its lock held, when the permit is lost.
func (s *Seat) vacate(cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.driver, s.token, s.ended = "", "", cause
	s.c.bad = nobodyDrives
}

// vacateAnd is vacate for a lease that has given no permit.
func (s *Seat) vacateAnd(cause string) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.vacate(cause)
}

// holds returns nil if the lease of a token stands, else the error for its driver.
func (s *Seat) holds(command, caller, token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driver == "" || s.driver != caller || s.token != token {
		why := s.ended
		if s.driver != "" {
			why = s.driver + " drives"
		}
		return s.refuse(command, "the lease is over: "+why)
	}
	return nil
}

func (s *Seat) keep(caller, token string) error {
	s.g.mu.Lock()
	defer s.g.mu.Unlock() // so that what is renewed is not lost meanwhile
	if err := s.holds(commandKeep, caller, token); err != nil {
		return err
	}
	s.g.hearLocked(s.c, time.Now(), "", s.lease) // takes the permit away if it comes too late
	err := s.holds(commandKeep, caller, token)   // and then it is no lease any more
	if err != nil {
		s.c.bad = nobodyDrives
	}
	return err
}

func (s *Seat) leave(caller, token string) error {
	if err := s.holds(commandLeave, caller, token); err != nil {
		return err
	}
	s.g.Disarm(caller + " has left control")
	return nil
}
