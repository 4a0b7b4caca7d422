//! The README and the guide, typed as they stand on nodes of their own. See tests/src/pages.rs for what
//! a block means.

use gpuctl_tests::story::{Aside, Story};
use gpuctl_tests::{Node, Options, engine_runs_here};

fn node() -> Node {
    Node::start(Options { service: true, name: "gpu1", ..Options::default() })
}

#[test]
fn the_readme() {
    if !engine_runs_here() {
        return;
    }
    let aside = Aside::new();
    let node = node();
    aside.shows(&node);
    Story::on(&node).runs("README.md");
}
