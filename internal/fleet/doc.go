// Package fleet is what a mower's uplink (package bridge/fleet) and those who look after many mowers agree on: names, documents, and the engine
// between them. The engine is somebody else's: a NATS server or cluster with JetStream, or an MQTT 5 broker or cluster. Nothing of ours is clustered.
//
// # What goes where
//
//	                     NATS                                                       MQTT 5
//	history of a topic   subject lawnberry.<mower>.<topic>, a stream by class       lawnberry/fleet/<mower>/history/<topic>, retained, QoS 2
//	latest of a topic    bucket LAWNBERRY_STATE, key <mower>.<topic>                lawnberry/fleet/<mower>/state/<topic>, retained, QoS 1
//	presence             bucket LAWNBERRY_PRESENCE with a time to live, key <mower> lawnberry/fleet/<mower>/presence, retained, and a Will
//	command              request on lawnberry.<mower>.commands.<service>            lawnberry/fleet/<mower>/commands/<service>, Response Topic
//	job                  bucket LAWNBERRY_JOBS, key <mower>: a list of them           lawnberry/fleet/<mower>/jobs/<service>, QoS 1 with expiry
//	enrolment            bucket LAWNBERRY_MOWERS, key <mower>                       the broker's own
//
// A topic is relative to the mower's namespace. In subjects and keys its levels are tokens, see [Tokens].
//
// # Two lanes
//
// The latest value of a topic goes to the fleet at once, and overtakes everything: an older one that is still waiting is not sent any more. The
// history of a topic goes in its order, from an outbox that outlives outages, each record once. So a mower that comes back with a day's
// readings shows where it is now while they are on their way. Which lanes a topic takes is the matter of its [Class].
package fleet
