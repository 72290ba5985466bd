// Package fleet is the uplink of a mower: what it tells the fleet, and what it takes from there. Package internal/fleet says where what goes at
// the engine, which is a NATS server or cluster.
//
// # What is promised on the way up
//
//   - The uplink delays nobody on the bus: it is a subscriber like others, and starts and runs without its engine.
//   - An event or alert is on the disk, or in memory while that takes nothing, before the bus has its acknowledgement, however slow the disk, and is
//     forgotten only when the engine has stored it. What the engine has stored is not stored again as long as the engine still has it, whatever is
//     killed meanwhile.
//   - The history of a topic is in the order of the bus.
//   - Telemetry is in memory while the engine takes it, and is written when the engine is away and at the end. A process that is killed loses
//     what it had not written: what came since the last batch, mostly.
//   - The latest values overtake the history. Of a topic's values the newest is sent; those that it overtakes are not.
//   - What does not fit into the bounds of the outbox is dropped, the oldest telemetry first and alerts last. It is counted, and the fleet is told.
package fleet
