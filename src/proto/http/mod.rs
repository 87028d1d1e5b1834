//! HTTP/1.1 heads and the WebSocket upgrade.

pub mod chunked;
pub mod head;
pub mod upgrade;
