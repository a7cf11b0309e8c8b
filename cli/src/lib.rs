//! The one binary, `isthmus`: runs any daemon, the demo and the operator's commands. A library, so that tests can form
//! federations of real processes with the demo's own lab.
