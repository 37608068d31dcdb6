//! What holds for every action.

use super::*;

#[test]
fn no_two_actions_share_their_keys() {
    for (i, a) in ACTIONS.iter().enumerate() {
        for b in &ACTIONS[i + 1..] {
            assert!(
                a.keys.is_none() || a.keys != b.keys,
                "{} and {} have the same keys",
                a.title,
                b.title
            );
        }
    }
}

#[test]
fn every_action_explains_itself() {
    for action in ACTIONS {
        assert!(action.tooltip.ends_with('.'), "{}", action.title);
        assert!(!action.title.ends_with('.'), "{}", action.title);
    }
}
