// Requests as people and programs read them. What a person signs is read from the bytes that are signed.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "sealift/v1/fleet.pb.h"

namespace sealift::cli {

nlohmann::json RequestJson(const v1::ChangeRequest& request);
std::string RequestTableHead();
std::string RequestTableRow(const v1::ChangeRequest& request);
std::string RequestText(const v1::ChangeRequest& request);

}  // namespace sealift::cli
