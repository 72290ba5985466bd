// Package enrol makes the keys and the configuration of a fleet's engine, where that is NATS, lets mowers in, and locks them out.
//
// # Who may do what
//
// Identities are NATS's decentralised ones: the servers know the public key of an operator and nothing else. The operator's signing key signs accounts,
// the key of an account signs its users. The private keys are in the directory of the fleet, where [Init] has put them, and on no server.
//
// The account FLEET has the streams and buckets, and those who look after the fleet are its users. Each mower has an account of its own, without
// any storage, which imports from FLEET what it needs: that it may publish its history and its latest values, ask for the last message of one
// of its own subjects, read and change its list of jobs, hear its commands, and answer. Each import is for subjects with the id of the mower in
// them, and needs a token signed by FLEET. The subjects are the same on both sides, so a mower notices nothing of it.
//
// # Why an account for each mower
//
// Permissions of users in one account do not keep them apart where there is JetStream. A client chooses where the answer to its request goes, and a
// server does not ask whether the client may publish there: it publishes the answer itself. So a mower that may publish one record and ask for the last
// message of its subject may have that message delivered to any subject of its account: to another mower's commands, into another's history, and to
// JetStream's own interface, where it empties or removes streams (seen with nats-server 2.15.2). Between accounts the answer comes back into
// the account that has asked, and there only the mower's own subjects are.
//
// For the same reason a mower has no consumer: one may deliver to any subject of FLEET. Besides, a consumer for each mower would be a Raft group for each.
//
// # Locking out
//
// [Fleet.Revoke] signs the account of the mower anew, without imports and connections and with all its users revoked, and hands that to every server.
// They close its connections at once. A server that is down or cut off gets it from the others within [SyncInterval] after it is back.
package enrol
