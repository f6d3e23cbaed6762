//! What one instance uses of its handler's `memory`, over all of its memories and tables.

use wasmtime::ResourceLimiter;

use super::engine::{CORE_INSTANCES, MEMORIES, TABLES};

/// What a table element counts as: the pointer that the engine keeps for it.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// Counts bytes, and refuses growth past the limit.
#[derive(Debug)]
pub(super) struct Meter {
    limit: u64,
    used: u64,
    /// What the last permitted growth added: taken back should the engine fail to do it.
    last: u64,
    refused: bool,
}

impl Meter {
    /// A meter that refuses to go past `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: 0, last: 0, refused: false }
    }

    /// Bytes of memories and tables, used or not: memory of a guest only grows.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// The limit, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether growth was refused since [`Meter::forgive`].
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Forgets earlier refusals: they are not the next call's doing.
    pub(super) fn forgive(&mut self) {
        self.refused = false;
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.used.saturating_add(bytes);
        if wanted > self.limit {
            self.refused = true;
            return false;
        }
        self.used = wanted;
        self.last = bytes;
        true
    }

    fn take_back(&mut self) {
        self.used -= std::mem::take(&mut self.last);
        self.refused = true;
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false); // The guest's own maximum, not ours.
        }
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    /// A table's maximum is the guest's own or, without one, what the engine
    /// can hold: past it is past what we allow.
    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.refused = true;
            return Ok(false);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut meter = Meter::new(1000);
        assert!(meter.memory_growing(0, 600, None).unwrap());
        assert!(meter.table_growing(0, 25, None).unwrap());
        assert_eq!(meter.used(), 800);
        assert!(!meter.table_growing(25, 51, None).unwrap());
        assert!(meter.refused());
        assert_eq!(meter.used(), 800);
    }

    #[test]
    fn a_growth_that_failed_is_not_counted() {
        let mut meter = Meter::new(1000);
        assert!(meter.memory_growing(0, 600, None).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(meter.used(), 0);
        assert!(meter.refused());
        meter.forgive();
        assert!(!meter.refused());
    }

    #[test]
    fn a_guests_own_maximum_is_no_refusal_of_ours() {
        let mut meter = Meter::new(1000);
        assert!(!meter.memory_growing(0, 600, Some(500)).unwrap());
        assert!(!meter.refused());
    }
}
