//! Simulated carriers and a simulated model, written against the vendors' references and not against
//! the relay's own message types, so that they can disagree with it. Sans-IO state machines; thin drivers.
