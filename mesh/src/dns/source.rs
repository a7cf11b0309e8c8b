//! Where answers come from: a view that holds everything, or one that is filled by demand.

use crate::subscribe::{Demand, Views};

/// What names are answered from.
#[derive(Clone, Debug)]
pub enum Names {
    /// A view that holds everything.
    Views(Views),
    /// A view that holds the endpoints of what is used; a question about others is a first use.
    Demand(Demand),
}

impl From<Views> for Names {
    fn from(views: Views) -> Self {
        Self::Views(views)
    }
}

impl From<Demand> for Names {
    fn from(demand: Demand) -> Self {
        Self::Demand(demand)
    }
}

impl Names {
    pub(super) fn parts(self) -> (Views, Option<Demand>) {
        match self {
            Self::Views(views) => (views, None),
            Self::Demand(demand) => (demand.views().clone(), Some(demand)),
        }
    }
}
