# sealift_self_contained(TARGET): the program needs nothing from a distribution but glibc, and the tpm2-tss and
# libcryptsetup libraries that lie beside it (docs/decisions/0020-self-contained-agent.md). Release builds only: others link as usual.
function(sealift_self_contained target)
  if(NOT CMAKE_BUILD_TYPE STREQUAL "Release" OR SEALIFT_SANITIZE)
    return()
  endif()
  if(NOT TARGET self_contained_fmt)
    add_library(self_contained_fmt STATIC ${CMAKE_SOURCE_DIR}/cmake/self_contained/fmt.cc)
  endif()
  target_link_libraries(${target} PRIVATE self_contained_fmt)
  # No symbol of the static libraries is visible to the shared ones: tpm2-tss brings a libcrypto of its own.
  # DT_RPATH, not DT_RUNPATH: it also holds for what tpm2-tss loads in turn.
  target_link_options(${target} PRIVATE -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,--gc-sections
    -Wl,--disable-new-dtags)
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN"
    RULE_LAUNCH_LINK "${CMAKE_SOURCE_DIR}/cmake/self_contained/link.sh")
endfunction()
