//! A session's events as JSON lines, `{"conn":1,"dir":"in","event":{…}}`, for a judge that somebody else wrote. Shell.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Which way an event went, seen from the simulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// Appends to one file from any number of sessions. A disk that is full stops the recording, never a session.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<BufWriter<File>>>);

impl Recorder {
    /// Makes or empties the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(BufWriter::new(File::create(
            path,
        )?)))))
    }

    /// One event of connection `conn`. What is not JSON is kept as a string under `raw`.
    pub fn write(&self, conn: u64, direction: Direction, text: &[u8]) {
        let dir = match direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
        let (key, value) = if is_json {
            // JSON may hold line breaks between its tokens; the file has one event a line.
            let text = String::from_utf8_lossy(text).replace(['\r', '\n'], " ");
            ("event", text)
        } else {
            let text = String::from_utf8_lossy(text);
            ("raw", serde_json::Value::from(text.as_ref()).to_string())
        };
        let mut file = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = writeln!(
            file,
            "{{\"conn\":{conn},\"dir\":\"{dir}\",\"{key}\":{value}}}"
        );
    }

    /// Gives what is buffered to the system; called when a session ends.
    pub fn flush(&self) {
        let mut file = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = file.flush();
    }
}
