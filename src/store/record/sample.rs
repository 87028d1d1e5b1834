//! The agents that are shipped, to be copied or tried. Core.

use super::agent::Agent;

/// Earl: a chatty, hard-of-hearing gentleman who keeps a caller on the line. The persona of one of the replaced backends.
pub const EARL_JSON: &str = include_str!("samples/earl.json");

/// All of them.
pub fn agents() -> Vec<Agent> {
    // A test reads each of them; a build that could fail here never gets out.
    [EARL_JSON]
        .iter()
        .filter_map(|text| serde_json::from_str(text).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::template::{List, Variables};

    fn earl() -> Agent {
        serde_json::from_str(EARL_JSON).expect("our own file")
    }

    #[test]
    fn every_sample_is_read_and_has_no_problems() {
        let agents = agents();
        assert_eq!(agents.len(), 1);
        for agent in agents {
            assert_eq!(agent.problems(), []);
        }
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn every_sample_can_be_sent_to_a_model() {
        for agent in agents() {
            let rendered = agent.rendered(&Variables::new(), 1).unwrap();
            for settings in [&agent.settings, &rendered] {
                let proven = crate::config::stored::prove_agent(settings, false);
                assert!(proven.is_ok(), "{proven:?}");
            }
        }
    }

    #[test]
    fn earl_has_what_the_older_backend_had() {
        let earl = earl();
        let length = |name: &str| earl.lists[name].len();
        assert_eq!(length("tangents"), 8);
        assert!(length("mishearings") >= 24);
        assert!(matches!(earl.lists["mishearings"], List::Map(_)));
        assert_eq!(length("phrases"), 16);
        for key in ["instructions", "greeting", "voice"] {
            assert!(
                earl.settings[key]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
            );
        }
    }

    #[test]
    fn earl_is_another_one_in_each_call_and_the_same_within_one() {
        let earl = earl();
        let of = |seed| {
            let rendered = earl.rendered(&Variables::new(), seed).unwrap();
            assert!(!rendered["instructions"].as_str().unwrap().contains("{{"));
            rendered
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7)["instructions"], of(8)["instructions"]);
    }
}
