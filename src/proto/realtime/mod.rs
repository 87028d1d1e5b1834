//! OpenAI's Realtime events (GA), read and written, and where they are exchanged. Unknown events and
//! fields are normal.

pub mod client_event;
pub mod endpoint;
pub mod server_event;
pub mod settings;
pub mod tool;
