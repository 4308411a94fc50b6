#include "node-agent/mirror/share_request.h"

#include <gtest/gtest.h>

namespace sealift::agent {
namespace {

TEST(ShareRequest, ReadsWhatANeighbourAsksAndNothingElse) {
  const std::string hex(64, 'a');
  const std::string line = "GET /objects/aa/" + hex + " HTTP/1.1\r\n";
  EXPECT_EQ(ParseShareRequest(line + "Host: x\r\n\r\n")->digest.hex(), hex);
  EXPECT_EQ(ParseShareRequest(line + "\r\n")->offset, 0u);
  EXPECT_EQ(ParseShareRequest(line + "Range: bytes=77-\r\n\r\n")->offset, 77u);
  EXPECT_EQ(ParseShareRequest(line + "A: b\r\nRange: bytes=77-\r\nC: d\r\n\r\n")->offset, 77u);
  for (const std::string& bad :
       {std::string(), std::string("\r\n\r\n"), line, "GET /objects/ab/" + hex + " HTTP/1.1\r\n\r\n",
        "GET /objects/aa/" + std::string(64, 'x') + " HTTP/1.1\r\n\r\n", "PUT" + line.substr(3) + "\r\n",
        "GET /objects/AA/" + std::string(64, 'A') + " HTTP/1.1\r\n\r\n",
        "GET /objects/aa/../" + hex.substr(3) + " HTTP/1.1\r\n\r\n", line + "Range: bytes=-5\r\n\r\n",
        line + "Range: bytes=1-5\r\n\r\n", line + "Range: bytes=99999999999999999999-\r\n\r\n",
        line + "Range: bytes=1-\r\nRange: bytes=2-\r\n\r\n", line + "\r\nGET more\r\n\r\n",
        line + std::string(5000, 'x') + "\r\n\r\n"})
    EXPECT_FALSE(ParseShareRequest(bad).ok()) << bad;
}

}  // namespace
}  // namespace sealift::agent
