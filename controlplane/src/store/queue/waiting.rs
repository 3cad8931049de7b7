//! Says to people why a container waits.

use crate::model::{Capacity, Demand};

/// How many workers of a pool have, in all, the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) total: Capacity,
    pub(crate) workers: u64,
}

/// Why nothing in the pool takes this demand. `kinds` are the pool's live workers.
pub(crate) fn waiting(demand: &Demand, kinds: &[Kind]) -> String {
    let pool = if demand.pool_selector.is_empty() {
        "the default pool".to_owned()
    } else {
        format!("pool {}", demand.pool_selector)
    };
    let count = |fits: &dyn Fn(&Capacity) -> bool| -> u64 {
        kinds.iter().filter(|kind| fits(&kind.total)).map(|kind| kind.workers).sum()
    };
    if count(&|_| true) == 0 {
        return format!("{pool} has no worker");
    }
    let enough_gpu = |total: &Capacity| {
        demand.gpu_count == 0
            || (total.gpu_count >= demand.gpu_count && (demand.gpu.is_empty() || total.gpu == demand.gpu))
    };
    if count(&enough_gpu) == 0 {
        return format!("no worker of {pool} has {}", gpus(demand));
    }
    let large =
        |total: &Capacity| enough_gpu(total) && total.cpu >= demand.cpu && total.memory >= demand.memory;
    match count(&large) {
        0 => format!("no worker of {pool} is large enough: needs {}", needs(demand)),
        1 => format!("the only fitting worker of {pool} is full: needs {}", needs(demand)),
        many => format!("all {many} fitting workers of {pool} are full: needs {}", needs(demand)),
    }
}

fn gpus(demand: &Demand) -> String {
    let kind = if demand.gpu.is_empty() { String::new() } else { format!("{} ", demand.gpu) };
    let plural = if demand.gpu_count == 1 { "" } else { "s" };
    format!("{} {kind}GPU{plural}", demand.gpu_count)
}

fn needs(demand: &Demand) -> String {
    let mut text = format!("{} millicores, {} MiB", demand.cpu, demand.memory);
    if demand.gpu_count > 0 {
        text.push_str(", ");
        text.push_str(&gpus(demand));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let total =
            |cpu, memory, gpu: &str, gpu_count| Capacity { cpu, memory, gpu: gpu.to_owned(), gpu_count };
        let demand = |cpu, gpu: &str, gpu_count, pool: &str| Demand {
            cpu,
            memory: 4096,
            gpu: gpu.to_owned(),
            gpu_count,
            pool_selector: pool.to_owned(),
        };
        let kinds = [
            Kind { total: total(4000, 8192, "", 0), workers: 11 },
            Kind { total: total(8000, 8192, "T4", 2), workers: 1 },
        ];
        let cases = [
            (demand(2000, "", 0, ""), &kinds[..0], "the default pool has no worker"),
            (demand(2000, "", 0, "gpu-a100"), &kinds[..0], "pool gpu-a100 has no worker"),
            (demand(2000, "", 4, "gpu-a100"), &kinds[..], "no worker of pool gpu-a100 has 4 GPUs"),
            (demand(2000, "A100", 1, ""), &kinds[..], "no worker of the default pool has 1 A100 GPU"),
            (
                demand(16000, "", 0, ""),
                &kinds[..],
                "no worker of the default pool is large enough: needs 16000 millicores, 4096 MiB",
            ),
            (
                demand(2000, "", 0, ""),
                &kinds[..],
                "all 12 fitting workers of the default pool are full: needs 2000 millicores, 4096 MiB",
            ),
            (
                demand(2000, "T4", 2, ""),
                &kinds[..],
                "the only fitting worker of the default pool is full: needs 2000 millicores, 4096 MiB, 2 T4 GPUs",
            ),
        ];
        for (demand, kinds, expected) in cases {
            assert_eq!(waiting(&demand, kinds), expected);
        }
    }
}
