//! The faces of a node: what agents, proxies, operators and programs call. Each call is judged by the caller's certificate
//! first, by the one table in `rules`. Decides nothing about the catalogue: that is done by proposals.

mod admin;
mod certificate;
mod gate;
mod http;
mod join;
mod outward;
mod register;
pub mod rules;
mod turns;
pub mod watch;

pub(crate) use admin::{Admin, AdminApi, diagnose::DIAGNOSES_MAX};
pub(crate) use certificate::{CertificateApi, OPERATOR_LIFETIME};
pub(crate) use gate::Door;
pub(crate) use http::pages;
pub(crate) use join::Joins;
pub(crate) use outward::Error;
pub(crate) use register::RegisterApi;
