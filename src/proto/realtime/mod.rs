//! OpenAI's Realtime events (GA), read and written. Unknown events and fields are normal.

pub mod client_event;
pub mod server_event;
pub mod settings;
