// Parts of a record that no query looks into, as JSON text in one column. The store reads only what it wrote;
// a column that does not parse is a damaged database.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "controller/fleet/node.h"
#include "controller/fleet/request.h"
#include "controller/fleet/rollout.h"
#include "controller/fleet/stores.h"
#include "controller/store/sqlite_db.h"

namespace sealift::controller {

std::string EncodeLabels(const std::map<std::string, std::string>& labels);
std::string EncodeStatus(const NodeStatus& status);
std::string EncodeVerdict(const Verdict& verdict);
std::string EncodeInstall(const InstallRecord& install);
// What is needed to judge it again, apart from what has a column of its own.
std::string EncodeEvidenceContext(const EvidenceRecord& record);
std::string EncodeOutcome(const OrderOutcome& outcome);

// Errors: DATA_LOSS/STORE_FAILED.
Result<std::map<std::string, std::string>> DecodeLabels(const std::string& json);
Result<NodeStatus> DecodeStatus(const std::string& json);
Result<Verdict> DecodeVerdict(const std::string& json);
Result<InstallRecord> DecodeInstall(const std::string& json);
Status DecodeEvidenceContext(const std::string& json, EvidenceRecord& record);
Result<OrderOutcome> DecodeOutcome(const std::string& json);

// Adds the node ids in the first column of the rows that are left. Errors: of the statement; those of
// NodeId::Parse.
Status ReadNodeIds(SqliteStatement& query, std::vector<NodeId>& nodes);

}  // namespace sealift::controller
