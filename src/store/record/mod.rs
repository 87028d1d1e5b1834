//! What is kept: agents, calls, their items, transcripts, money and notes, and what one journal entry says about them.
//!
//! Core: values, their serde forms and pure functions on them. Neither the journal nor the index is named here. Whoever
//! writes turns what happened into an [`event::Event`], which goes into the journal; whoever reads folds events with
//! [`state::apply`]. Everything that can be asked of the store follows from that fold, so an index may be thrown away.
//!
//! | file | what |
//! |---|---|
//! | [`agent`] | an agent's settings, its lists and its content version |
//! | [`template`] | `{{pick list}}` in an agent's texts, the same for the same seed |
//! | [`sample`] | the agents that are shipped |
//! | [`status`] | the one machine behind three vocabularies of call status |
//! | [`analysis`] | a call in numbers |
//! | [`call`] | a call's row and its JSON view |
//! | [`item`] | conversation items, byte by byte as they came |
//! | [`transcript`] | who said what and what was heard of it, from a call's facts |
//! | [`money`] | tokens, price table, cost in billionths of a dollar |
//! | [`caption`] | a transcript as captions |
//! | [`event`] | what one journal entry says, its bytes, and older versions of them |
//! | [`state`] | events folded into rows |
//! | [`time`] | times as people read them |

pub mod agent;
pub mod analysis;
pub mod call;
pub mod caption;
pub mod event;
pub mod item;
pub mod money;
pub mod sample;
pub mod state;
pub mod status;
pub mod template;
pub mod time;
pub mod transcript;
