package enrol

import (
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A share is what the account FLEET lets a mower have.
type share struct {
	name    string
	subject string
	kind    jwt.ExportType
}

// response is how many answers there are.
func (s share) response() jwt.ResponseType {
	if s.kind == jwt.Service {
		return jwt.ResponseTypeSingleton
	}
	return ""
}

// roots are the first levels of topics that go up.
var roots = []string{"safety", "weather", "system", "fleet", "navigation", "power", "sensors", "vision"}

// shared returns what a mower shares with FLEET; "*" is all mowers. A mower has nothing else.
func shared(mower string) []share {
	service := func(name, subject string) share {
		return share{name, subject, jwt.Service}
	}
	var all []share
	for _, root := range roots { // not its commands and jobs
		all = append(all, service("history of "+root, "lawnberry."+mower+"."+root+".>"))
	}
	all = append(all,
		service("latest values", "$KV."+fleet.BucketState+"."+mower+".>"),
		service("presence", "$KV."+fleet.BucketPresence+"."+mower),
	)
	for _, stream := range fleet.HistoryStreams() {
		all = append(all, service("last message in "+stream, "$JS.API.DIRECT.GET."+stream+".lawnberry."+mower+".>"))
	}
	return append(all,
		service("jobs", fleet.JobListSubject(mower)),
		service("jobs that there are", fleet.JobListQuestion(mower)),
		share{"changes of jobs", fleet.JobNudge(mower), jwt.Stream},
		share{"commands", fleet.CommandFilter(mower), jwt.Stream},
		// An inbox of FLEET has a name that nobody can guess. The mower's user may publish there only what answers a command.
		service("answers", "_INBOX.>"),
	)
}

// Limits of a mower.
const (
	maxConnections   = 8  // an uplink has one; those that are dead linger a while
	maxSubscriptions = 64 // of each
	maxPayload       = 1 << 20
	maxAnswers       = 64 // to one command, events of its progress included
	answerFor        = time.Hour
)

// mowerAccount returns the account of a mower, or of one that is locked out.
func (f *Fleet) mowerAccount(mower, public string, revoked bool) (string, error) {
	claims := jwt.NewAccountClaims(public)
	claims.Name = mower
	claims.Limits.Conn, claims.Limits.LeafNodeConn = maxConnections, 0
	claims.Limits.Subs, claims.Limits.Payload = maxSubscriptions, maxPayload
	claims.Limits.Exports, claims.Limits.WildcardExports, claims.Limits.DisallowBearer = 0, false, true
	if revoked {
		claims.Limits.Conn, claims.Limits.Imports = 0, 0
		claims.Revocations = jwt.RevocationList{}
		claims.Revocations.Revoke(jwt.All, time.Now().Add(time.Minute))
		return claims.Encode(f.signing)
	}
	for _, s := range shared(mower) {
		activation := jwt.NewActivationClaims(public)
		activation.Name = s.name
		activation.ImportSubject, activation.ImportType = jwt.Subject(s.subject), s.kind
		token, err := activation.Encode(f.account)
		if err != nil {
			return "", err
		}
		claims.Imports.Add(&jwt.Import{Name: s.name, Subject: jwt.Subject(s.subject), Account: f.public, Token: token, Type: s.kind})
	}
	claims.Limits.Imports = int64(len(claims.Imports))
	return claims.Encode(f.signing)
}

// mowerUser returns the credentials of a mower. They say again what its account has anyway.
func mowerUser(mower string, of nkeys.KeyPair) (creds []byte, user string, err error) {
	return credentials(of, mower, func(claims *jwt.UserClaims) {
		for _, s := range shared(mower) {
			switch {
			case s.kind == jwt.Stream:
				claims.Sub.Allow.Add(s.subject)
			case s.name != "answers":
				claims.Pub.Allow.Add(s.subject)
			}
		}
		claims.Sub.Allow.Add(fleet.InboxPrefix(mower) + ".>")
		claims.Resp = &jwt.ResponsePermission{MaxMsgs: maxAnswers, Expires: answerFor}
		claims.Limits.Subs, claims.Limits.Payload = maxSubscriptions, maxPayload
	})
}
