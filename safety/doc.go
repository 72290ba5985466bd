// Package safety is the emergency stop of a mower, and what keeps motors and blade from turning without leave.
//
//	latch, err := safety.OpenLatch(ctx, svc.Client(), safety.LatchOptions{})
//	guard, err := safety.NewGuard(ctx, svc, latch, safety.GuardOptions{})
//	err = guard.Require("sensors/tilt/data", 300*time.Millisecond)
//	...
//	err = guard.Run(ctx, 50*time.Millisecond, drive, stop)
//
// MQTT is not the safety function of last resort. A motor controller keeps a dead-man timer of its own, which drive feeds: when this
// process is killed, nobody calls stop any more.
//
// # The emergency stop
//
// It is engaged or released; unknown is engaged. Its state is kept by the [Hub], which runs in "lawnberry serve" as the service
// emergency_stop, and is retained on safety/emergency_stop. Every program that wants to know has a [Latch].
//
//   - Whatever comes on safety/emergency_stop engages, whoever sent it, even if it cannot be read. The message goes from who engages to
//     who has to stop through the broker alone; the hub confirms it afterwards.
//   - No message on that topic releases. A latch is released by nothing but the answer of the hub to a question of its own, asked on the
//     present connection, and only if the hub has taken in everything that the latch has heard. So no message that is retained, replayed,
//     forged, delayed or sent twice releases anything; one that claims a release is a reason to ask.
//   - What the hub has not confirmed stays engaged, and is said again until it has.
//   - After a lost connection, while the hub is gone, and before its first answer the state is unknown.
//   - To release is a command to the hub, which names the sequence number of the state that its sender has seen. It is refused while
//     there is a hazard, a source that a guard requires is stale, a service that has reported is gone, or a guard has not confirmed that
//     it stands. With access control it needs the right "release".
//
// A hub without a file, or whose file and retained message do not agree on a release, begins engaged.
//
// # Guards
//
// A [Guard] gives leave to move, its permit, only while nothing stands against it. A permit that is lost does not come back by itself: the
// guard has to be armed again, by a command that sets the machine going ([Guard.Arm]) or by a driver who takes the lease ([Seat]). So
// releasing the emergency stop starts nothing. Arming asks the hub first.
//
// A guard reports, retained on safety/reports/{service}, when its stop function has returned; the hub collects these confirmations, and
// raises the alert stop_not_confirmed when one is missing half a second after an emergency stop.
//
// # Times
//
// All are measured on the monotonic clock of the process that waits, from receipt; what messages say about time decides
// nothing, but that a reading too old by the wire format's age limit is none.
package safety
