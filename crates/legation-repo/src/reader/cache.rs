//! A cache of bounded weight that forgets what was used longest ago.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Keeps values up to a total weight.
pub(super) struct Lru<K, V> {
    bound: usize,
    weight: usize,
    clock: u64,
    values: HashMap<K, (V, usize, u64)>,
    order: BTreeMap<u64, K>,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            bound,
            weight: 0,
            clock: 0,
            values: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let (value, _, used) = self.values.get_mut(key)?;
        self.clock += 1;
        self.order.remove(used);
        self.order.insert(self.clock, *key);
        *used = self.clock;
        Some(value.clone())
    }

    pub(super) fn put(&mut self, key: K, value: V, weight: usize) {
        self.clock += 1;
        if let Some((_, old, used)) = self.values.insert(key, (value, weight, self.clock)) {
            self.order.remove(&used);
            self.weight -= old;
        }
        self.order.insert(self.clock, key);
        self.weight += weight;
        while self.weight > self.bound {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some((_, weight, _)) = self.values.remove(&oldest) {
                self.weight -= weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_least_recently_used() {
        let mut lru = Lru::new(10);
        lru.put(1, "a", 4);
        lru.put(2, "b", 4);
        assert_eq!(lru.get(&1), Some("a"));
        lru.put(3, "c", 4);
        assert_eq!(
            (lru.get(&1), lru.get(&2), lru.get(&3)),
            (Some("a"), None, Some("c"))
        );
        lru.put(1, "d", 2);
        lru.put(4, "e", 4);
        assert_eq!(
            (lru.get(&1), lru.get(&3), lru.get(&4)),
            (Some("d"), Some("c"), Some("e"))
        );
        lru.put(5, "huge", 11);
        assert_eq!((lru.get(&5), lru.get(&1)), (None, None));
        assert_eq!((lru.weight, lru.values.len(), lru.order.len()), (0, 0, 0));
    }
}
