//! Assigns threads to cores.
//!
//! Input: the configuration and the allowed cores. Output: a core for each thread, or none. Control thread, at the
//! start. Nothing can fail: a core that is not allowed is left out. The machine may have changed since the file was
//! written, and events matter more than cores.

use crate::config::settings::{Config, Cpus};

/// Writers if the configuration leaves their number open.
const WRITERS_AUTO: usize = 4;

/// A core for each thread; None: not pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// One for each writer.
    pub(super) writers: Vec<Option<usize>>,
    /// The reader's.
    pub(super) reader: Option<usize>,
    /// Cores that the configuration names and the process is not allowed.
    pub(super) left_out: Vec<usize>,
}

/// The cores that this thread may run on.
pub(super) fn allowed() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Assigns the cores.
pub(super) fn plan(config: &Config, allowed: &[usize]) -> Plan {
    let mut left_out = Vec::new();
    let mut usable = |wanted: &Cpus, auto: &[usize]| match wanted {
        Cpus::Auto => auto.to_vec(),
        Cpus::None => Vec::new(),
        Cpus::List(list) => {
            let (usable, not): (Vec<usize>, Vec<usize>) = list.iter().partition(|core| allowed.contains(core));
            left_out.extend(not);
            usable
        }
    };
    let cores = usable(&config.writers.cpus, allowed);
    let count = config.writers.count.unwrap_or_else(|| WRITERS_AUTO.min(allowed.len()).max(1));
    let writers: Vec<Option<usize>> = (0..count).map(|index| cores.get(index % cores.len().max(1)).copied()).collect();
    // If every core has a writer, the scheduler knows better which of them has time for the reader.
    let free: Vec<usize> = allowed.iter().copied().filter(|&core| !writers.contains(&Some(core))).collect();
    let all_pinned = !cores.is_empty();
    let reader = usable(&config.reader.cpu, if all_pinned { &free } else { &[] }).first().copied();
    Plan { writers, reader, left_out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::default_config;

    fn planned(count: Option<usize>, cpus: Cpus, cpu: Cpus, allowed: &[usize]) -> (Vec<Option<usize>>, Option<usize>) {
        let mut config = default_config("/d".into());
        config.writers.count = count;
        config.writers.cpus = cpus;
        config.reader.cpu = cpu;
        let plan = plan(&config, allowed);
        (plan.writers, plan.reader)
    }

    #[test]
    fn writers_are_spread_over_what_is_allowed_and_the_reader_gets_what_is_left() {
        let auto = |count, allowed: &[usize]| planned(count, Cpus::Auto, Cpus::Auto, allowed);
        assert_eq!(auto(None, &[0]), (vec![Some(0)], None));
        assert_eq!(auto(None, &[0, 1]), (vec![Some(0), Some(1)], None));
        assert_eq!(auto(None, &[2, 3, 4, 5, 6, 7]), (vec![Some(2), Some(3), Some(4), Some(5)], Some(6)));
        assert_eq!(auto(Some(3), &[0, 1]), (vec![Some(0), Some(1), Some(0)], None));
        assert_eq!(auto(Some(1), &[0, 1]), (vec![Some(0)], Some(1)));
        assert_eq!(auto(None, &[]), (vec![None], None));
    }

    #[test]
    fn what_is_configured_holds_as_far_as_it_is_allowed() {
        let two = Some(2);
        assert_eq!(planned(two, Cpus::None, Cpus::Auto, &[0, 1]), (vec![None, None], None));
        assert_eq!(planned(two, Cpus::List(vec![1]), Cpus::List(vec![0]), &[0, 1]), (vec![Some(1); 2], Some(0)));
        let mut config = default_config("/d".into());
        config.writers.cpus = Cpus::List(vec![9, 1]);
        config.reader.cpu = Cpus::List(vec![7]);
        let plan = plan(&config, &[0, 1]);
        assert_eq!((plan.reader, plan.left_out), (None, vec![9, 7]));
        assert!(plan.writers.iter().all(|core| *core == Some(1)));
    }
}
