//! Names, streets and words that the generated people and papers are made of, and the canary words.

use crate::rng::Rng;

const GIVEN: [&str; 24] = [
    "Aino", "Ants", "Eha", "Endel", "Helve", "Indrek", "Jaan", "Kadri", "Kalju", "Leida", "Linda",
    "Maie", "Mart", "Meeli", "Olev", "Peeter", "Piret", "Rein", "Salme", "Tiiu", "Tõnu", "Urve",
    "Valdur", "Ülle",
];
const ROOT: [&str; 20] = [
    "Kask", "Tamm", "Saar", "Mägi", "Kivi", "Oja", "Pärn", "Lepp", "Kuusk", "Raud", "Luik",
    "Ilves", "Rebas", "Põld", "Jõgi", "Vaher", "Sepp", "Koppel", "Laas", "Toom",
];
const ENDING: [&str; 8] = ["", "e", "ik", "la", "maa", "mets", "ste", "vald"];
const STREET: [&str; 12] = [
    "Aia",
    "Kooli",
    "Lai",
    "Metsa",
    "Mere",
    "Niidu",
    "Pikk",
    "Pärna",
    "Ranna",
    "Tartu mnt",
    "Uus",
    "Veski",
];
/// County, municipality, and the first five digits of its cadastral numbers.
pub const PLACES: [(&str, &str, u32); 10] = [
    ("Harju", "Tallinn", 78401),
    ("Harju", "Rae", 65301),
    ("Tartu", "Tartu", 79501),
    ("Tartu", "Elva", 17101),
    ("Pärnu", "Pärnu", 62401),
    ("Ida-Viru", "Narva", 51101),
    ("Saare", "Saaremaa", 34801),
    ("Lääne", "Haapsalu", 18301),
    ("Võru", "Rõuge", 69701),
    ("Järva", "Paide", 12601),
];

/// A given name.
pub fn given(rng: &mut Rng) -> &'static str {
    rng.pick(&GIVEN)
}

/// A family name.
pub fn family(rng: &mut Rng) -> String {
    format!("{}{}", rng.pick(&ROOT), rng.pick(&ENDING))
}

/// A street with a house number.
pub fn street(rng: &mut Rng) -> String {
    format!("{} {}", rng.pick(&STREET), rng.range(1, 140))
}

/// A county with a municipality and its cadastral prefix.
pub fn place(rng: &mut Rng) -> (&'static str, &'static str, u32) {
    PLACES[rng.below(PLACES.len() as u64) as usize]
}

/// Databases that words are planted in, at most.
const DATABASES: usize = 12;
/// Words planted in the rows of each.
pub const WORDS_EACH: usize = 4;

/// Words planted in data, names of tables and names of files, to be looked for where they must not be.
///
/// Long enough that chance does not make one in a terabyte of ciphertext.
#[derive(Debug, Clone)]
pub struct Canaries {
    /// Planted in rows, four to a database.
    pub data: Vec<String>,
    /// Names of tables, one to a database.
    pub tables: Vec<String>,
    /// Planted in the text of files.
    pub files: Vec<String>,
    /// Planted in the names of files.
    pub paths: Vec<String>,
}

impl Canaries {
    /// The words of one seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "canaries");
        let mut word = |kind: &str| {
            let tail: String = (0..12)
                .map(|_| char::from(b'a' + rng.below(26) as u8))
                .collect();
            format!("{kind}{tail}")
        };
        let mut many = |kind: &str, n: usize| (0..n).map(|_| word(kind)).collect::<Vec<_>>();
        Self {
            data: many("Lind", DATABASES * WORDS_EACH),
            tables: many("salvestus_", DATABASES),
            files: many("Varblane", 8),
            paths: many("tihane", 4),
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        [&self.data, &self.tables, &self.files, &self.paths]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}
