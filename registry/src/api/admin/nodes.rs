//! Nodes of the region's Raft group, and what mass-loss protection holds.

use mesh::model::NodeId;
use proto::admin::v1 as pb;

use super::Admin;
use crate::{
    api::Error,
    catalog::{Command, Subject},
};

impl Admin {
    pub(crate) async fn remove_node(&self, request: pb::RemoveNodeRequest) -> Result<pb::Committed, Error> {
        let node = NodeId(request.node);
        if !self.parts.replica.nodes().iter().any(|status| status.id == node) {
            return Err(Error::NotFound {
                what: "node",
                id: node.to_string(),
                hint: "isthmus status lists them",
            });
        }
        self.parts.replica.remove_node(node).await?;
        // What was found at it goes with it. Else the removal is a change of the group, not of the catalogue; the empty
        // command says where that now stands.
        let subject = Subject::Node(node);
        match self.parts.replica.state().finding(&subject) {
            Some(_) => self.committed(Command::PutFinding { subject, finding: None }).await,
            None => self.committed(Command::Noop).await,
        }
    }

    pub(crate) async fn release_unverified(&self, _: pb::ReleaseUnverifiedRequest) -> Result<pb::Committed, Error> {
        self.committed(Command::ReleaseUnverified).await
    }
}
