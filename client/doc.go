// Package client is the bus's MQTT client: a session that reconnects, an outbox, handlers by topic filter, and
// command and response.
//
// # Session
//
// [Connect] speaks MQTT 5, or 3.1.1 with a broker that refuses version 5. The session outlives its connections: after
// a cut the client dials again (exponential backoff with full jitter), restores its subscriptions if the broker has
// forgotten them, sends what is unacknowledged again in its order, calls [Options].Birth and drains the outbox.
//
// # What is promised
//
//   - [Client.Publish] returns nil when the message is safe: acknowledged at QoS 1 and 2, written at QoS 0, or held in
//     the outbox while there is no connection. With [Options].Dir the outbox is on disk: what Publish has accepted outlives
//     this process, however that ends, and is sent by the next one with the same ID and Dir: in its order, and at QoS 2 not twice
//     as long as the broker keeps the session. QoS 0 and 1 may come twice then. Without, it is in memory: it is lost with the process, and [Client.Close] says how much
//     that was.
//   - Messages of one goroutine to one topic arrive in the order in which they were published.
//   - Each handler gets each message once, however many filters of this client match it. At QoS 1 a message may come
//     again after a cut, at QoS 2 it does not as long as the broker keeps the session ([Options].DurableSession, if the broker
//     may be restarted at the same time).
//   - A message is acknowledged after all its handlers returned. One exception keeps a slow handler from delaying the
//     others: acknowledgements leave in the order of receipt [MQTT-4.6.0-2], so when the slow one's messages would use
//     up the broker's window (half of it over MQTT 5) they are acknowledged while they still wait in this process, as
//     far as the bound of that handler's queue. Beyond that bound the broker has to wait.
//   - What breaks a rule of the wire format (malformed, too large, too old, expired) is acknowledged; handlers never see it.
//   - Every message that goes no further, received or to be sent, is counted once, by its reason: in [Stats].Rejected, or in Dropped, Expired,
//     Failed, RateLimited or Superseded. And it is logged once, at level debug, as "message rejected" with topic, reason, the field if the wire
//     format names it, and the message's id if it is known. Nothing of a payload is logged.
//
// # Age limit
//
// A message older than [message.Limits].MaxAge is rejected, with three exceptions: retained messages, Wills that carry
// the user property will (this client's do, over MQTT 5), and status messages on system/services/+/status, so that the
// Wills of others and of MQTT 3.1.1 are heard too. Past its expires_at every message is rejected.
//
// # Commands and clocks
//
// A request's expires_at is a time of its sender's clock. [Client.ServeCommands] never begins past it as long as the two clocks
// agree, which they do when the timestamp is within the age limit of ours. A request is never given more time than its sender gave
// it (expires_at minus timestamp, counted from its receipt), nor more than the remaining Message Expiry. When the clocks disagree by
// more than the age limit, as with a clock that has lost a year, these two alone hold, and where Message Expiry has begun to
// run down, a second less than it says. It counts whole seconds, so that then a request which waited for less than one
// may begin up to a second late. Without Message Expiry (MQTT 3.1.1 at either end) a request that seems older than the age limit is
// not run, nor one from the future that a session resumed in the last 10 s may have kept: nothing tells it from a dead one. Its
// sender is told that the clocks disagree. The answer to a call that waits is taken whatever its timestamp says.
//
// With clocks that are wrong by less than the age limit the one that says "too late" is believed.
//
// # Overlapping filters
//
// Over MQTT 5 every filter has a subscription identifier, so that each copy a broker sends is known to belong to one
// filter. A broker without identifiers, and MQTT 3.1.1, sends copies that cannot be told apart; there the client
// holds no two filters at the broker that overlap: it subscribes to their join instead ("a/+/c" and "a/b/+" become
// "a/+/+") and chooses the handlers itself.
package client
