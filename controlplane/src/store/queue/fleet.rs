//! The workers that one pass over the queue holds, and what is left of each. No I/O: [`super::place`] reads and writes them.

use std::collections::HashMap;

use crate::model::{Demand, WorkerId};

/// A worker whose row this pass has locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) worker: WorkerId,
    pub(crate) pool: String,
    pub(crate) gpu: String,
    pub(crate) total_gpu: i64,
    pub(crate) free_cpu: i64,
    pub(crate) free_memory: i64,
    pub(crate) free_gpu: i64,
    pub(crate) containers: i64,
    /// Differs from its row.
    pub(crate) dirty: bool,
}

impl Slot {
    /// Whether a container of this demand has room.
    pub(crate) fn fits(&self, demand: &Demand) -> bool {
        self.pool == demand.pool_selector
            && self.free_cpu >= demand.cpu
            && self.free_memory >= demand.memory
            && (demand.gpu_count == 0
                || (self.free_gpu >= demand.gpu_count && (demand.gpu.is_empty() || self.gpu == demand.gpu)))
    }

    /// Takes the demand out of what is free.
    pub(crate) fn take(&mut self, demand: &Demand) {
        self.free_cpu -= demand.cpu;
        self.free_memory -= demand.memory;
        self.free_gpu -= demand.gpu_count;
        self.containers += 1;
        self.dirty = true;
    }

    /// Smaller fills better: nodes with GPUs are kept for those who need them, then the least is left over.
    fn rest(&self, demand: &Demand) -> (bool, i64, i64, i64) {
        let wasted = demand.gpu_count == 0 && self.total_gpu > 0;
        (wasted, if self.total_gpu > 0 { self.free_gpu } else { 0 }, self.free_cpu, self.free_memory)
    }
}

/// Locked workers.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    slots: Vec<Slot>,
    places: HashMap<WorkerId, usize>,
}

impl Fleet {
    /// Adds what is not here yet. What is here already is not taken from the database again: its row may be older.
    pub(crate) fn add(&mut self, slots: impl IntoIterator<Item = Slot>) {
        for slot in slots {
            if !self.places.contains_key(&slot.worker) {
                self.places.insert(slot.worker.clone(), self.slots.len());
                self.slots.push(slot);
            }
        }
    }

    /// The worker that the demand fills best, among those that `wanted` accepts.
    pub(crate) fn best(&mut self, demand: &Demand, wanted: impl Fn(&WorkerId) -> bool) -> Option<&mut Slot> {
        self.slots
            .iter_mut()
            .filter(|slot| slot.fits(demand) && wanted(&slot.worker))
            .min_by_key(|slot| slot.rest(demand))
    }

    /// Those that differ from their rows; they do not any more.
    pub(crate) fn take_dirty(&mut self) -> Vec<Slot> {
        let dirty = self.slots.iter_mut().filter(|slot| slot.dirty);
        dirty
            .map(|slot| {
                slot.dirty = false;
                slot.clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(worker: &str, cpu: i64, memory: i64, gpu: (&str, i64)) -> Slot {
        Slot {
            worker: worker.into(),
            pool: String::new(),
            gpu: gpu.0.to_owned(),
            total_gpu: gpu.1,
            free_cpu: cpu,
            free_memory: memory,
            free_gpu: gpu.1,
            containers: 0,
            dirty: false,
        }
    }

    fn demand(cpu: i64, memory: i64, gpu: (&str, i64)) -> Demand {
        Demand { cpu, memory, gpu: gpu.0.to_owned(), gpu_count: gpu.1, pool_selector: String::new() }
    }

    #[test]
    fn best_fit_table() {
        let cases: [(&str, Demand, Option<&str>); 8] = [
            ("the fullest that fits", demand(1000, 100, ("", 0)), Some("small")),
            ("the next one where memory lacks", demand(1000, 2000, ("", 0)), Some("large")),
            ("a node with GPUs only when no other fits", demand(9000, 100, ("", 0)), Some("a100")),
            ("any kind", demand(1, 1, ("", 2)), Some("t4")),
            ("that kind", demand(1, 1, ("A100", 2)), Some("a100")),
            ("more than any has", demand(1, 1, ("A100", 9)), None),
            ("a kind that nobody has", demand(1, 1, ("H100", 1)), None),
            ("a kind without a count is no demand", demand(1, 1, ("H100", 0)), Some("small")),
        ];
        for (what, demand, expected) in cases {
            let mut fleet = Fleet::default();
            fleet.add([
                slot("large", 8000, 8000, ("", 0)),
                slot("small", 2000, 1000, ("", 0)),
                slot("a100", 16000, 64000, ("A100", 8)),
                slot("t4", 9000, 50, ("T4", 4)),
            ]);
            let found = fleet.best(&demand, |_| true).map(|slot| slot.worker.as_str().to_owned());
            assert_eq!(found.as_deref(), expected, "{what}");
        }
    }

    #[test]
    fn what_is_taken_is_gone_and_written_once() {
        let mut fleet = Fleet::default();
        fleet.add([slot("one", 2000, 1000, ("", 0))]);
        let wants = demand(1500, 10, ("", 0));
        fleet.best(&wants, |_| true).unwrap().take(&wants);
        assert!(fleet.best(&wants, |_| true).is_none());
        // The row that the database still has does not come back.
        fleet.add([slot("one", 2000, 1000, ("", 0))]);
        assert!(fleet.best(&wants, |_| true).is_none());
        let dirty = fleet.take_dirty();
        assert_eq!((dirty.len(), dirty[0].free_cpu, dirty[0].containers), (1, 500, 1));
        assert!(fleet.take_dirty().is_empty());
    }

    #[test]
    fn another_pool_does_not_fit() {
        let wants = Demand { pool_selector: "gpu".to_owned(), ..demand(1, 1, ("", 0)) };
        assert!(!slot("one", 10, 10, ("", 0)).fits(&wants));
    }
}
