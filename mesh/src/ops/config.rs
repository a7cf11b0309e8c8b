//! Settings from TOML: read value by value, so that one run reports all faults of a file, unknown keys included.
//!
//! (A derive that fails at the first fault would make the operator mend a file once per fault.)

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    str::FromStr,
    time::Duration,
};

use thiserror::Error;
use toml::{Table, Value};

/// All faults of a file, each with the key it belongs to and what to write instead.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0.len() == 1 { "fault" } else { "faults" };
        write!(f, "{} {noun}: {}", self.0.len(), self.0.join("; "))
    }
}

/// A value that a setting can have.
pub trait Setting: Sized {
    /// Reads it, or says what is expected.
    ///
    /// # Errors
    /// Text that completes "`key`: …".
    fn read(value: &Value) -> Result<Self, String>;
}

fn wrong(value: &Value, expected: &str) -> String {
    format!("{} is a {}; expected {expected}", value, value.type_str())
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong(value, "a string"))
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wrong(value, "true or false"))
    }
}

impl Setting for PathBuf {
    fn read(value: &Value) -> Result<Self, String> {
        value
            .as_str()
            .filter(|path| !path.is_empty())
            .map(Into::into)
            .ok_or_else(|| wrong(value, "a path"))
    }
}

impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or_else(|| wrong(value, "a duration such as \"500ms\" or \"5s\""))?;
        humantime::parse_duration(text)
            .map_err(|error| format!("{text:?}: {error}; write for example \"500ms\" or \"5s\""))
    }
}

macro_rules! integer {
    ($($kind:ty),*) => {$(
        impl Setting for $kind {
            fn read(value: &Value) -> Result<Self, String> {
                let number = value.as_integer().ok_or_else(|| wrong(value, "a whole number"))?;
                Self::try_from(number).map_err(|_| format!("{number} is not between {} and {}", Self::MIN, Self::MAX))
            }
        }
    )*};
}
integer!(u16, u32, u64, usize);

impl Setting for f64 {
    fn read(value: &Value) -> Result<Self, String> {
        let number = value
            .as_float()
            .or_else(|| value.as_integer().map(|whole| whole as Self));
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| wrong(value, "a number"))
    }
}

impl Setting for SocketAddr {
    fn read(value: &Value) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or_else(|| wrong(value, "an address such as \"127.0.0.1:15012\""))?;
        text.parse()
            .map_err(|_| format!("{text:?} is not an address; write for example \"127.0.0.1:15012\" or \"[::]:15012\""))
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Value) -> Result<Self, String> {
        value
            .as_array()
            .ok_or_else(|| wrong(value, "a list"))?
            .iter()
            .map(T::read)
            .collect()
    }
}

/// A table of free keys, such as labels.
impl<T: Setting> Setting for BTreeMap<String, T> {
    fn read(value: &Value) -> Result<Self, String> {
        let table = value.as_table().ok_or_else(|| wrong(value, "a table"))?;
        let read = |(key, value): (&String, &Value)| match T::read(value) {
            Ok(value) => Ok((key.clone(), value)),
            Err(fault) => Err(format!("{key}: {fault}")),
        };
        table.iter().map(read).collect()
    }
}

/// For types that parse from text: ids, protocols and the like.
macro_rules! text_setting {
    ($($kind:ty),* $(,)?) => {$(
        impl crate::ops::Setting for $kind {
            fn read(value: &toml::Value) -> Result<Self, String> {
                crate::ops::read_text(value)
            }
        }
    )*};
}

/// Reads a type that parses from text.
pub(crate) fn read_text<T: FromStr<Err: fmt::Display>>(value: &Value) -> Result<T, String> {
    let text = value.as_str().ok_or_else(|| wrong(value, "a string"))?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

text_setting!(
    crate::model::RegionId,
    crate::model::ClusterId,
    crate::model::Zone,
    crate::model::Namespace,
    crate::model::ServiceAccount,
    crate::model::ServiceName,
    crate::model::TenantId,
    crate::model::GatewayId,
    crate::model::WorkloadId,
    crate::model::Protocol,
    crate::identity::TrustDomain,
    crate::identity::SpiffeId,
);

/// One table of the file. Every key that exists must be asked for; `finish` reports the others as unknown.
pub struct Section {
    path: String,
    table: Table,
    asked: RefCell<BTreeSet<String>>,
    faults: Rc<RefCell<Vec<String>>>,
}

impl Section {
    /// The whole file.
    ///
    /// # Errors
    /// When the text is no TOML: then nothing else can be said.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let table = text
            .parse::<Table>()
            .map_err(|error| Faults(vec![format!("not TOML: {}", error.to_string().trim())]))?;
        Ok(Self {
            path: String::new(),
            table,
            asked: RefCell::default(),
            faults: Rc::default(),
        })
    }

    /// The value of a key, if it is there and good. A fault is noted.
    pub fn optional<T: Setting>(&self, key: &str) -> Option<T> {
        self.asked.borrow_mut().insert(key.to_owned());
        let value = self.table.get(key)?;
        T::read(value).map_err(|fault| self.fault(key, fault)).ok()
    }

    /// The value of a key, or the default where it is absent.
    pub fn or<T: Setting>(&self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value of a key that must be there. None when it is absent or bad: a fault is noted, so [`Section::finish`]
    /// fails.
    pub fn required<T: Setting>(&self, key: &str) -> Option<T> {
        if !self.table.contains_key(key) {
            self.asked.borrow_mut().insert(key.to_owned());
            self.fault(key, "is missing");
        }
        self.optional(key)
    }

    /// Notes a fault that only the caller can see, such as one between two fields.
    pub fn fault(&self, key: &str, fault: impl fmt::Display) {
        let dot = if self.path.is_empty() || key.is_empty() {
            ""
        } else {
            "."
        };
        self.faults
            .borrow_mut()
            .push(format!("{}{dot}{key}: {fault}", self.path));
    }

    /// Whether the key is there.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A table inside; an empty one where it is absent. Its unknown keys are reported by its own `finish_section`.
    #[must_use]
    pub fn section(&self, key: &str) -> Self {
        self.asked.borrow_mut().insert(key.to_owned());
        let table = match self.table.get(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table.clone(),
            Some(other) => {
                self.fault(key, wrong(other, "a table"));
                Table::new()
            }
        };
        self.inner(key, table)
    }

    /// An array of tables; empty where it is absent.
    #[must_use]
    pub fn sections(&self, key: &str) -> Vec<Self> {
        self.asked.borrow_mut().insert(key.to_owned());
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            self.fault(key, wrong(value, "an array of tables"));
            return Vec::new();
        };
        let item = |(at, item): (usize, &Value)| match item {
            Value::Table(table) => Some(self.inner(&format!("{key}[{at}]"), table.clone())),
            other => {
                self.fault(&format!("{key}[{at}]"), wrong(other, "a table"));
                None
            }
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    fn inner(&self, key: &str, table: Table) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{key}", self.path);
        Self {
            path,
            table,
            asked: RefCell::default(),
            faults: Rc::clone(&self.faults),
        }
    }

    /// Notes the keys of this table that nobody asked for.
    pub fn finish_section(&self) {
        let asked = self.asked.borrow();
        for key in self.table.keys().filter(|key| !asked.contains(*key)) {
            let known: Vec<_> = asked.iter().map(String::as_str).collect();
            self.fault(key, format!("is unknown; known here: {}", known.join(", ")));
        }
    }

    /// Ends the reading of the file: all faults at once, or none.
    ///
    /// # Errors
    /// When any value was missing, bad or unknown.
    pub fn finish(self) -> Result<(), Faults> {
        self.finish_section();
        let faults = self.faults.take();
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RegionId;

    #[test]
    fn all_faults_are_reported_together() {
        let file =
            Section::parse("region = 'EU'\nlisten = 5\n[raft]\nheartbeat = 'soon'\nheartbeet = 1\n").expect("TOML");
        let _: Option<RegionId> = file.required("region");
        let _: Option<SocketAddr> = file.required("listen");
        let _: Option<PathBuf> = file.required("data");
        let raft = file.section("raft");
        let _ = raft.or("heartbeat", Duration::from_millis(100));
        raft.finish_section();
        let faults = file.finish().expect_err("five faults");
        assert_eq!(faults.0.len(), 5, "{faults}");
        for (fault, start) in faults.0.iter().zip([
            "region:",
            "listen:",
            "data: is missing",
            "raft.heartbeat:",
            "raft.heartbeet: is unknown",
        ]) {
            assert!(fault.starts_with(start), "{fault}");
        }
    }

    #[test]
    fn absent_values_take_their_defaults() {
        let file = Section::parse("").expect("empty is TOML");
        assert_eq!(file.or("heartbeat", Duration::from_secs(1)), Duration::from_secs(1));
        assert!(file.sections("upstream").is_empty());
        file.finish().expect("no faults");
    }
}
