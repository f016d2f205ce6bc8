//! Notifies systemd: sd_notify(3), and the watchdog, which is fed only if the threads make progress.
//!
//! Input: what the daemon does, and the pulses of its threads. Output: datagrams on `NOTIFY_SOCKET`, if systemd asked
//! for them. Control thread. Failures: a notification that does not arrive; the next one repeats it.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::pipeline::pulse::{Activity, Beat};
use crate::pipeline::store::Condition;
use crate::sys::notify::{Notifier, WhenBusy};

/// STATUS is sent at most this often, and only if its figures have changed.
pub(super) const STATUS_EVERY: Duration = Duration::from_secs(1);
/// While nothing changes, the pause between two looks grows up to this.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(64);
/// How much more time a stop asks for at once.
pub(super) const STOP_STEP: Duration = Duration::from_secs(5);

/// The service manager, if one listens.
#[derive(Debug)]
pub(super) struct Manager {
    notifier: Option<Notifier>,
    watchdog: Option<Duration>,
    status: String,
    storage: Condition,
    look_every: Duration,
    beats: Vec<Beat>,
}

impl Manager {
    /// From the environment.
    pub(super) fn from_environment() -> Self {
        let notifier = Notifier::from_environment().unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET cannot be used; systemd gets no notifications");
            None
        });
        let watchdog = sd_notify::watchdog_enabled().filter(|_| notifier.is_some());
        Self::new(notifier, watchdog)
    }

    fn new(notifier: Option<Notifier>, watchdog: Option<Duration>) -> Self {
        let storage = Condition::Ok;
        Self { notifier, watchdog, status: String::new(), storage, look_every: STATUS_EVERY, beats: Vec::new() }
    }

    fn note(&self, states: &[NotifyState<'_>]) {
        let Some(notifier) = &self.notifier else { return };
        let note = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        // With a limit: a service manager that does not read must not block the control plane.
        if let Err(error) = notifier.send(&note, None, WhenBusy::Wait) {
            tracing::debug!(%error, "systemd did not accept a notification");
        }
    }

    /// The daemon serves, or serves again after a reload.
    pub(super) fn ready(&self) {
        self.note(&[NotifyState::Ready]);
    }

    /// A reload has begun. systemd wants to know when.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.note(&[NotifyState::Reloading, now]),
            Err(_) => self.note(&[NotifyState::Reloading]),
        }
    }

    /// The daemon stops.
    pub(super) fn stopping(&self) {
        self.note(&[NotifyState::Stopping, NotifyState::Status("Stopping: persisting what was accepted")]);
    }

    /// The daemon still stops, and makes progress.
    pub(super) fn needs_longer(&self) {
        let us = u32::try_from(2 * STOP_STEP.as_micros()).unwrap_or(u32::MAX);
        self.note(&[NotifyState::ExtendTimeoutUsec(us)]);
    }

    /// How long to sleep before the next [`Manager::look`]; None: forever, because nothing listens.
    pub(super) fn look_after(&self) -> Option<Duration> {
        let watchdog = self.watchdog.map_or(LOOK_EVERY_MAX, |interval| interval / 2);
        self.notifier.as_ref().map(|_| self.look_every.min(watchdog))
    }

    /// Sends STATUS if it has changed, and feeds the watchdog if all threads are alive. Returns whether they are. A
    /// change of the storage's state goes to the log.
    pub(super) fn look(&mut self, status: String, storage: Condition, beats: Vec<Beat>, work_waits: bool) -> bool {
        let alive = all_alive(&self.beats, &beats, work_waits);
        let mut states = Vec::new();
        if alive && self.watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        if std::mem::replace(&mut self.storage, storage) != storage {
            match storage {
                Condition::Ok => tracing::info!("the storage accepts events again"),
                _ => tracing::warn!(
                    storage = storage.name(),
                    "the storage does not accept events; 'dbufctl stats' shows its last error"
                ),
            }
        }
        // In a failure people watch the status, and want to see its end.
        if status == self.status && storage == Condition::Ok {
            self.look_every = (self.look_every * 2).min(LOOK_EVERY_MAX);
        } else {
            self.look_every = STATUS_EVERY;
            if status != self.status {
                states.push(NotifyState::Status(&status));
            }
        }
        if !states.is_empty() {
            self.note(&states);
        }
        self.status = status;
        self.beats = beats;
        alive
    }
}

/// Whether every thread is alive. The last beat is the reader's.
///
/// | state | alive if |
/// |---|---|
/// | running | it has completed a round since the last look |
/// | parked | a writer: always; the reader: if nothing waits, or it has completed a round |
/// | waiting for room | always: the reader is judged separately |
/// | at the disk | always: `stats` shows a stalled disk, and a restart would not repair it |
/// | any of these, and stopped | it has completed a round since the last look |
fn all_alive(before: &[Beat], now: &[Beat], work_waits: bool) -> bool {
    let reader = now.len().wrapping_sub(1);
    now.iter().enumerate().all(|(index, beat)| {
        let came_round = before.get(index).is_none_or(|earlier| earlier.rounds != beat.rounds);
        match beat.activity {
            _ if beat.stopped => came_round,
            Activity::Running => came_round,
            Activity::Parked => came_round || index != reader || !work_waits,
            Activity::WaitsForRoom | Activity::Disk => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(rounds: u64, activity: Activity) -> Beat {
        Beat { rounds, activity, stopped: false }
    }

    #[test]
    fn a_thread_that_runs_without_coming_round_starves_the_watchdog() {
        let stuck = [beat(5, Activity::Running), beat(1, Activity::Parked)];
        assert!(all_alive(&[], &stuck, false), "the first look has nothing to compare with");
        assert!(!all_alive(&stuck, &stuck, false));
        assert!(all_alive(&stuck, &[beat(6, Activity::Running), beat(1, Activity::Parked)], false));
    }

    #[test]
    fn a_reader_that_sleeps_beside_its_work_starves_the_watchdog_and_an_idle_one_does_not() {
        let asleep = [beat(5, Activity::Parked), beat(9, Activity::Parked)];
        assert!(all_alive(&asleep, &asleep, false));
        assert!(!all_alive(&asleep, &asleep, true));
        assert!(all_alive(&asleep, &[beat(5, Activity::Parked), beat(10, Activity::Parked)], true));
    }

    #[test]
    fn a_disk_that_stalls_and_writers_that_wait_for_it_are_no_hang() {
        let stalled = [beat(5, Activity::WaitsForRoom), beat(9, Activity::Disk)];
        assert!(all_alive(&stalled, &stalled, true));
    }

    #[test]
    fn a_thread_that_was_stopped_starves_the_watchdog_whatever_it_was_doing() {
        for activity in [Activity::Running, Activity::Parked, Activity::WaitsForRoom, Activity::Disk] {
            let stopped = [Beat { stopped: true, ..beat(5, activity) }, beat(9, Activity::Parked)];
            assert!(!all_alive(&stopped, &stopped, false), "{activity:?}");
            // A traced thread stops for a moment, again and again.
            assert!(all_alive(&[beat(4, activity), beat(9, Activity::Parked)], &stopped, false), "{activity:?}");
        }
    }

    #[test]
    fn looks_get_rarer_while_nothing_changes_but_never_rarer_than_the_watchdog_needs() {
        let silent = Notifier::to(b"@dbufd-nothing-listens-here").unwrap();
        let mut manager = Manager::new(Some(silent), Some(Duration::from_secs(30)));
        let beats = || vec![beat(1, Activity::Parked)];
        manager.look("a".into(), Condition::Ok, beats(), false);
        assert_eq!(manager.look_after(), Some(STATUS_EVERY));
        for _ in 0..10 {
            manager.look("a".into(), Condition::Ok, beats(), false);
        }
        assert_eq!(manager.look_after(), Some(Duration::from_secs(15)));
        manager.look("b".into(), Condition::Ok, beats(), false);
        assert_eq!(manager.look_after(), Some(STATUS_EVERY));
        for _ in 0..3 {
            manager.look("b".into(), Condition::Stalled, beats(), false);
        }
        assert_eq!(manager.look_after(), Some(STATUS_EVERY), "its end is seen soon");
        assert_eq!(Manager::new(None, None).look_after(), None);
    }
}
