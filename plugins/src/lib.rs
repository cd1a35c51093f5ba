//! The CNI plug-ins.
