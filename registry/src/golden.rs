//! Golden bytes: what earlier versions wrote, kept in `tests/golden/`, one line a sample: its name and its bytes. What this
//! version writes must be there, and whatever is there must still be read. A changed layout is a new line, never another
//! one: `cargo test --workspace --lib -- --ignored bless_golden_bytes` adds the missing lines.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

/// The samples of one file.
pub(crate) struct Book {
    path: PathBuf,
    known: Vec<(String, Vec<u8>)>,
    today: BTreeMap<String, Vec<u8>>,
    faults: Vec<String>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let pairs = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    pairs.collect()
}

impl Book {
    pub(crate) fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let path = folder.join(format!("{name}.txt"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Self {
            path,
            known: lines.map(|(name, bytes)| (name.to_owned(), unhex(bytes))).collect(),
            today: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// What this version writes, and how it reads what any version wrote: back into the same bytes.
    pub(crate) fn sample(&mut self, name: &str, today: Vec<u8>, read: impl Fn(&[u8]) -> Result<Vec<u8>, String>) {
        let written: Vec<_> = self.known.iter().filter(|(known, _)| known == name).cloned().collect();
        for (_, bytes) in &written {
            match read(bytes) {
                Ok(again) if again == *bytes => {}
                Ok(again) => self.faults.push(format!(
                    "{name}: {} is read as something else: {}",
                    hex(bytes),
                    hex(&again)
                )),
                Err(error) => self.faults.push(format!("{name}: {} is not read: {error}", hex(bytes))),
            }
        }
        if self.today.insert(name.to_owned(), today).is_some() {
            self.faults.push(format!("{name}: two samples have this name"));
        }
    }

    fn missing(&self) -> Vec<(&String, &Vec<u8>)> {
        let newest = |name: &str| self.known.iter().rev().find(|(known, _)| known == name);
        let is_missing = |(name, bytes): &(&String, &Vec<u8>)| newest(name).is_none_or(|(_, known)| known != *bytes);
        self.today.iter().filter(is_missing).collect()
    }

    /// Fails when anything is not read any more, or is written otherwise than the file says.
    pub(crate) fn check(mut self) {
        for (name, _) in &self.known {
            if !self.today.contains_key(name) {
                self.faults.push(format!(
                    "{name}: has no sample any more; what was written must stay readable"
                ));
            }
        }
        let missing = self.missing().into_iter();
        let missing: Vec<_> = missing
            .map(|(name, bytes)| {
                format!(
                    "{name}: is written as {}, which is new; can older versions read it? then bless it",
                    hex(bytes)
                )
            })
            .collect();
        self.faults.extend(missing);
        assert!(
            self.faults.is_empty(),
            "{}:\n{}",
            self.path.display(),
            self.faults.join("\n")
        );
    }

    /// Adds what is missing.
    pub(crate) fn bless(self) {
        let mut text = fs::read_to_string(&self.path).unwrap_or_default();
        for (name, bytes) in self.missing() {
            writeln!(text, "{name} {}", hex(bytes)).unwrap();
        }
        fs::create_dir_all(self.path.parent().unwrap()).unwrap();
        fs::write(&self.path, text).unwrap();
    }
}

/// Samples by the names of their variants. There is no catch-all arm: a new variant without a sample does not compile.
macro_rules! samples {
    ($kind:path, { $($variant:ident => $sample:expr,)* }) => {{
        use $kind as Kind;
        fn name(one: &Kind) -> &'static str {
            match one { $(Kind::$variant { .. } => stringify!($variant),)* }
        }
        let wanted = vec![$(stringify!($variant)),*];
        let all: Vec<Kind> = vec![$($sample),*];
        let named: Vec<_> = all.into_iter().map(|one| (name(&one), one)).collect();
        assert_eq!(named.iter().map(|(name, _)| *name).collect::<Vec<_>>(), wanted, "each sample is of its variant");
        named
    }};
}
pub(crate) use samples;

fn messages() -> Book {
    let mut book = Book::open("proto");
    for (name, bytes) in proto::samples::SAMPLES {
        let message = name.split('#').next().unwrap_or(name);
        let again = |bytes: &[u8]| {
            let again = proto::samples::again(message, bytes).ok_or("there is no such message")?;
            again.map_err(|error| error.to_string())
        };
        assert_eq!(
            again(bytes).as_deref(),
            Ok(*bytes),
            "{name}: the sample has every field"
        );
        book.sample(name, bytes.to_vec(), again);
    }
    book
}

#[test]
fn messages_of_every_version_are_read() {
    messages().check();
}

#[test]
#[ignore = "writes the files"]
fn bless_golden_bytes() {
    messages().bless();
}
