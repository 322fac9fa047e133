//! Who is served next: start-time fair queueing over tenants (Goyal, Vin and Cheng 1996).
//!
//! Each tenant has a virtual time, which grows by the tokens that it is served. The tenant whose time is least is next; one that comes back starts from the
//! time of the tenant that was served last, so that nobody saves up a share. A new tenant is therefore next after at most one service of each other.

use std::collections::HashMap;

/// The virtual times of tenants.
#[derive(Debug, Default)]
pub(super) struct Fair {
    served: HashMap<u64, u64>,
    /// The virtual time of the tenant that was served last, before it was served.
    now: u64,
}

impl Fair {
    /// The tenant whose turn it is among `tenants`; of several, the first.
    pub(super) fn next(&self, tenants: impl Iterator<Item = u64>) -> Option<u64> {
        tenants.min_by_key(|tenant| self.time(*tenant))
    }

    /// Notes that a tenant was served `tokens` tokens.
    pub(super) fn serve(&mut self, tenant: u64, tokens: usize) {
        let time = self.time(tenant);
        self.now = time;
        self.served.insert(tenant, time.saturating_add(tokens.max(1) as u64));
        let now = self.now;
        self.served.retain(|_, served| *served > now);
    }

    fn time(&self, tenant: u64) -> u64 {
        self.served.get(&tenant).map_or(self.now, |served| (*served).max(self.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_in_tokens() {
        let mut fair = Fair::default();
        let (mut served, cost) = ([0usize; 3], [10, 25, 400]);
        for _ in 0..3_000 {
            let tenant = fair.next([0, 1, 2].into_iter()).expect("a tenant");
            fair.serve(tenant, cost[tenant as usize]);
            served[tenant as usize] += cost[tenant as usize];
        }
        let (least, most) = (served.iter().min().expect("three"), served.iter().max().expect("three"));
        assert!(most - least <= 2 * 400, "{served:?}");
    }

    #[test]
    fn a_tenant_that_comes_is_next_after_one_service_and_saves_nothing_up() {
        let mut fair = Fair::default();
        for _ in 0..1_000 {
            fair.serve(1, 7);
        }
        assert_eq!(fair.next([1, 2].into_iter()), Some(2));
        // Tenant 2 waited a long time; it now has the same share, not all of it.
        let mut served = [0, 0, 0];
        for _ in 0..100 {
            let tenant = fair.next([1, 2].into_iter()).expect("a tenant");
            fair.serve(tenant, 7);
            served[tenant as usize] += 1;
        }
        assert!(served[1] >= 49, "{served:?}");
        assert!(fair.served.len() <= 2);
    }
}
