//! A model of a registry: named files, and a write-ahead log that only grows, until the machine is set back.

use std::collections::BTreeMap;

use legation_core::id::Lsn;

use crate::dice::Dice;

/// Where every log begins.
pub const START: Lsn = Lsn(0x0100_0000);
/// Most files.
const FILES: usize = 6;

/// A registry at home.
#[derive(Debug, Clone)]
pub struct Source {
    /// What identifies its history: another one once it was set back.
    pub system_id: u64,
    /// Its files.
    pub files: BTreeMap<String, Vec<u8>>,
    wal: Vec<u8>,
    /// What sets what it writes apart from what it wrote before it was set back.
    pub twist: u8,
    /// What the agent reported as safe: before it the log may be gone.
    pub flushed: Lsn,
}

impl Source {
    /// A registry with a file or two.
    pub fn new(number: usize, dice: &mut Dice) -> Self {
        let mut source = Self {
            system_id: 1000 + number as u64,
            files: BTreeMap::new(),
            wal: Vec::new(),
            twist: 0,
            flushed: START,
        };
        source.write(dice);
        source
    }

    /// Some transactions: files change, and the log grows.
    pub fn write(&mut self, dice: &mut Dice) {
        for _ in 0..=dice.roll(2) {
            let name = format!("f{}", dice.roll(FILES));
            let largest = *dice.pick(&[300, 5_000, 40_000, 150_000]);
            let content = dice.text(1 + dice.clone().roll(largest));
            match dice.roll(8) {
                0 => _ = self.files.remove(&name),
                _ => _ = self.files.insert(name, content),
            }
        }
        let len = 1 + dice.roll(*dice.clone().pick(&[200, 3_000, 20_000]));
        let text = dice.text(len);
        self.wal.extend(text.iter().map(|byte| byte ^ self.twist));
    }

    /// The end of its log.
    #[must_use]
    pub fn end(&self) -> Lsn {
        Lsn(START.0 + self.wal.len() as u64)
    }

    /// Up to `most` bytes of its log from a position on.
    #[must_use]
    pub fn wal(&self, from: Lsn, most: usize) -> &[u8] {
        let from = from.0.saturating_sub(START.0) as usize;
        let to = (from + most).min(self.wal.len());
        self.wal.get(from..to).unwrap_or_default()
    }
}
