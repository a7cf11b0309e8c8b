//! Reads the names in a TLS ClientHello from bytes as they arrive, in however many segments and records. Keeps every byte,
//! so that the hello can be replayed to whoever really answers it. Decrypts nothing and never panics on outside bytes.
//! Pure.

use thiserror::Error;

/// Largest hello that is read unless told otherwise: ten times that of a post-quantum client with many extensions.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Largest record that TLS allows in plaintext.
const RECORD_BYTES_MAX: usize = 16 * 1024;
const RECORD_HEAD_BYTES: usize = 5;
const MESSAGE_HEAD_BYTES: usize = 4;
const CONTENT_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
/// Longest name that DNS allows.
const NAME_BYTES_MAX: usize = 253;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Whom it wants to reach, in lower case.
    pub server_name: String,
    /// What it offers to speak, best first; empty when it does not say.
    pub alpn: Vec<Vec<u8>>,
}

impl Hello {
    /// Whether the client offers `protocol`.
    #[must_use]
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }
}

/// Why the bytes are no hello that can be relayed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// Another protocol: the bytes do not begin with a TLS handshake record.
    #[error("the client does not speak TLS")]
    NotTls,
    /// The hello is longer than the bound.
    #[error("the ClientHello is longer than {max} bytes")]
    TooLarge {
        /// The bound.
        max: usize,
    },
    /// The client does not say whom it wants.
    #[error("the ClientHello has no server name")]
    NoServerName,
    /// A field breaks the format.
    #[error("the ClientHello is malformed at {0}")]
    Malformed(&'static str),
}

/// What is known after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The hello goes on.
    NeedMore,
    /// All of it was read.
    Done(Hello),
}

/// Collects one client's first bytes until the hello is whole.
#[derive(Debug)]
pub struct HelloReader {
    /// Everything that was fed, for the replay.
    bytes: Vec<u8>,
    /// How much of `bytes` was taken apart.
    taken: usize,
    /// What the current record still holds.
    record_left: usize,
    /// The handshake message without record heads.
    message: Vec<u8>,
    max: usize,
}

impl HelloReader {
    /// Reads a hello of at most `max` bytes, record heads included.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            record_left: 0,
            message: Vec::new(),
            max,
        }
    }

    /// Takes the next bytes. After [`Progress::Done`] or a fault nothing more should be fed.
    ///
    /// # Errors
    /// As soon as the bytes cannot become a hello within the bound.
    pub fn feed(&mut self, segment: &[u8]) -> Result<Progress, Fault> {
        self.bytes.extend_from_slice(segment);
        loop {
            if let Some(body) = self.body()? {
                return parse(body).map(Progress::Done);
            }
            if self.record_left == 0 {
                if !self.next_record()? {
                    break;
                }
            } else {
                let end = self.bytes.len().min(self.taken + self.record_left);
                if end == self.taken {
                    break;
                }
                self.message.extend_from_slice(&self.bytes[self.taken..end]);
                self.record_left -= end - self.taken;
                self.taken = end;
            }
        }
        if self.bytes.len() >= self.max {
            return Err(Fault::TooLarge { max: self.max });
        }
        Ok(Progress::NeedMore)
    }

    /// Everything that was fed, to be replayed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Everything that was fed, to be replayed.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Takes a record's head apart; false while it is not all there. Judges each byte as soon as it is known, so that
    /// another protocol is told without waiting for more of it.
    fn next_record(&mut self) -> Result<bool, Fault> {
        let head = &self.bytes[self.taken..];
        let first = self.taken == 0;
        let other = |field| {
            if first { Fault::NotTls } else { Fault::Malformed(field) }
        };
        if head.first().is_some_and(|kind| *kind != CONTENT_HANDSHAKE) {
            return Err(other("record type"));
        }
        if head.get(1).is_some_and(|major| *major != 3) {
            return Err(other("record version"));
        }
        let Some(&[_, _, _, high, low]) = head.first_chunk::<RECORD_HEAD_BYTES>() else {
            return Ok(false);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(Fault::Malformed("record length"));
        }
        self.taken += RECORD_HEAD_BYTES;
        self.record_left = length;
        Ok(true)
    }

    /// The hello's body, once it is whole.
    fn body(&self) -> Result<Option<&[u8]>, Fault> {
        if self.message.first().is_some_and(|kind| *kind != MESSAGE_CLIENT_HELLO) {
            return Err(Fault::Malformed("handshake type"));
        }
        let Some(&[_, high, middle, low]) = self.message.first_chunk::<MESSAGE_HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length + MESSAGE_HEAD_BYTES + RECORD_HEAD_BYTES > self.max {
            return Err(Fault::TooLarge { max: self.max });
        }
        Ok(self.message.get(MESSAGE_HEAD_BYTES..MESSAGE_HEAD_BYTES + length))
    }
}

/// Reads one whole hello (RFC 8446, section 4.1.2) for its names.
fn parse(body: &[u8]) -> Result<Hello, Fault> {
    let mut body = Cursor(body);
    body.take(2, "version")?;
    body.take(32, "random")?;
    let session = usize::from(body.u8("session id")?);
    if session > 32 {
        return Err(Fault::Malformed("session id"));
    }
    body.take(session, "session id")?;
    let suites = body.list16("cipher suites")?;
    if suites.0.is_empty() || suites.0.len() % 2 != 0 {
        return Err(Fault::Malformed("cipher suites"));
    }
    let compressions = usize::from(body.u8("compression methods")?);
    if compressions == 0 {
        return Err(Fault::Malformed("compression methods"));
    }
    body.take(compressions, "compression methods")?;
    if body.0.is_empty() {
        return Err(Fault::NoServerName); // Extensions may be absent before TLS 1.3.
    }
    let mut extensions = body.list16("extensions")?;
    if !body.0.is_empty() {
        return Err(Fault::Malformed("end of message"));
    }
    let (mut server_name, mut alpn) = (None, None);
    while !extensions.0.is_empty() {
        let kind = extensions.u16("extension type")?;
        let content = extensions.list16("extension length")?;
        match kind {
            EXTENSION_SERVER_NAME if server_name.is_some() => return Err(Fault::Malformed("second server name")),
            EXTENSION_ALPN if alpn.is_some() => return Err(Fault::Malformed("second ALPN")),
            EXTENSION_SERVER_NAME => server_name = Some(parse_server_name(content)?),
            EXTENSION_ALPN => alpn = Some(parse_alpn(content)?),
            _ => {}
        }
    }
    Ok(Hello {
        server_name: server_name.ok_or(Fault::NoServerName)?,
        alpn: alpn.unwrap_or_default(),
    })
}

/// RFC 6066, section 3: one name of type host name.
fn parse_server_name(mut content: Cursor<'_>) -> Result<String, Fault> {
    const FIELD: &str = "server name";
    let mut list = content.list16(FIELD)?;
    let kind = list.u8(FIELD)?;
    let name = list.list16(FIELD)?;
    let good = |byte: &u8| byte.is_ascii_graphic();
    let bounded = (1..=NAME_BYTES_MAX).contains(&name.0.len());
    if !content.0.is_empty() || !list.0.is_empty() || kind != 0 || !bounded || !name.0.iter().all(good) {
        return Err(Fault::Malformed(FIELD));
    }
    let name = str::from_utf8(name.0).map_err(|_| Fault::Malformed(FIELD))?;
    Ok(name.to_ascii_lowercase())
}

/// RFC 7301, section 3.1: one or more names, none of them empty.
fn parse_alpn(mut content: Cursor<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    const FIELD: &str = "ALPN";
    let mut list = content.list16(FIELD)?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let length = usize::from(list.u8(FIELD)?);
        if length == 0 {
            return Err(Fault::Malformed(FIELD));
        }
        protocols.push(list.take(length, FIELD)?.to_vec());
    }
    if protocols.is_empty() || !content.0.is_empty() {
        return Err(Fault::Malformed(FIELD));
    }
    Ok(protocols)
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Fault::Malformed(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, Fault> {
        self.take(1, field).map(|bytes| bytes[0])
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, Fault> {
        self.take(2, field)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A list whose length stands before it in two bytes.
    fn list16(&mut self, field: &'static str) -> Result<Cursor<'a>, Fault> {
        let length = usize::from(self.u16(field)?);
        self.take(length, field).map(Cursor)
    }
}

#[cfg(test)]
mod tests;
