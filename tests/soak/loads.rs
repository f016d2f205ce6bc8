//! All producers together: they are there throughout, and send from the begin of an epoch to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::frames::{Framed, RefusedFrames};
use crate::machine::Machine;
use crate::payload::{PIECES, SHORT};
use crate::rings::{Ring, ShortRings};
use crate::senders::{Datagrams, Envelope, Lines, Sender, Sent, Short};

/// Between two steps of a producer at a steady rate.
const PAUSE: Duration = Duration::from_millis(10);
/// The session of the client that keeps it throughout; others follow.
const FIRST_SESSION: u128 = 1;

type Group = Vec<Box<dyn Sender>>;

/// The producers, while they rest.
pub(crate) struct Loads {
    groups: Vec<Group>,
    framed: Vec<Framed>,
}

/// The producers, while they send.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    groups: Vec<JoinHandle<(Group, Vec<String>)>>,
    framed: Vec<JoinHandle<(Framed, Result<Sent, String>)>>,
}

impl Loads {
    /// Connects the producers that stay connected throughout.
    pub(crate) fn new(machine: &Machine) -> Self {
        let socket = machine.path("/run/dbufd/stream.sock");
        let lines = |index: usize| -> Box<dyn Sender> {
            match index % 3 {
                0 => Box::new(Lines::torn(format!("torn{index}"), machine.stream())),
                _ => Box::new(Lines::new(format!("lines{index}"), machine.stream())),
            }
        };
        let short = |index: usize| -> Box<dyn Sender> {
            Box::new(Short::new(format!("{SHORT}{index}"), socket.clone(), index as u64))
        };
        let datagrams = |name: &str, envelope| -> Box<dyn Sender> {
            Box::new(Datagrams::new(name.to_owned(), machine.datagrams(), envelope))
        };
        let ring = |index: usize, capacity| -> Group {
            vec![Box::new(Ring::new(format!("ring{index}"), socket.clone(), capacity))]
        };
        let groups: Vec<Group> = vec![
            (0..8).map(lines).collect(),
            (8..16).map(lines).collect(),
            vec![
                Box::new(Lines::new(format!("{PIECES}0"), machine.stream())),
                Box::new(Lines::torn(format!("{PIECES}1"), machine.stream())),
            ],
            (0..2).map(short).collect(),
            vec![
                datagrams("dgram0", Envelope::Plain),
                datagrams("dgram1", Envelope::Plain),
                datagrams("syslog0", Envelope::Rfc3164),
                datagrams("syslog1", Envelope::Rfc5424),
                Box::new(Datagrams::refused("refused0".to_owned(), machine.datagrams())),
            ],
            // Each may have to wait for room, and no other is to wait with it.
            ring(0, 1 << 20),
            ring(1, 64 << 10),
            vec![Box::new(ShortRings::new("shortrings0".to_owned(), socket.clone(), 1))],
            vec![Box::new(RefusedFrames::new("refusedframes0".to_owned(), socket.clone(), FIRST_SESSION + 1))],
        ];
        Self { groups, framed: vec![Framed::new(socket, "frames0".to_owned(), FIRST_SESSION)] }
    }

    /// Begins to send, with a client of the framed protocol more that is of this epoch alone.
    pub(crate) fn start(mut self, machine: &Machine, epoch: u64) -> Running {
        let socket = machine.path("/run/dbufd/stream.sock");
        let session = FIRST_SESSION + 2 + u128::from(epoch);
        self.framed.truncate(1);
        self.framed.push(Framed::new(socket, format!("frames1.{epoch}"), session));
        let stop = Arc::new(AtomicBool::new(false));
        let groups = self.groups.into_iter().map(|group| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || drive(group, &stop))
        });
        let framed = self.framed.into_iter().map(|mut client| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let sent = client.run(&stop);
                (client, sent)
            })
        });
        let (groups, framed) = (groups.collect(), framed.collect());
        Running { stop, groups, framed }
    }
}

impl Running {
    /// Ends what has begun. Gives the producers, what each has sent, and what went wrong.
    pub(crate) fn stop(self) -> (Loads, Vec<Sent>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut sent, mut wrong) = (Vec::new(), Vec::new());
        let mut loads = Loads { groups: Vec::new(), framed: Vec::new() };
        for thread in self.groups {
            let (mut group, mut broken) = thread.join().expect("a sender does not panic");
            sent.extend(group.iter_mut().flat_map(|sender| sender.sent()));
            wrong.append(&mut broken);
            loads.groups.push(group);
        }
        for thread in self.framed {
            let (client, result) = thread.join().expect("a client does not panic");
            match result {
                Ok(numbers) => sent.push(numbers),
                Err(error) => wrong.push(error),
            }
            loads.framed.push(client);
        }
        (loads, sent, wrong)
    }
}

/// Lets each of a group send in turn until it is told to stop. One that sees an error is named, and left alone.
fn drive(mut group: Group, stop: &AtomicBool) -> (Group, Vec<String>) {
    let mut broken = vec![false; group.len()];
    let mut wrong = Vec::new();
    let mut each = |group: &mut Group, what: fn(&mut dyn Sender) -> io::Result<()>| {
        for (sender, broken) in group.iter_mut().zip(&mut broken).filter(|(_, broken)| !**broken) {
            if let Err(error) = what(sender.as_mut()) {
                *broken = true;
                wrong.push(format!("{} saw an error: {error}", sender.name()));
            }
        }
    };
    while !stop.load(Ordering::Relaxed) {
        each(&mut group, |sender| sender.step());
        thread::sleep(PAUSE);
    }
    each(&mut group, |sender| sender.finish());
    (group, wrong)
}
